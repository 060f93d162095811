import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { chromium } from "playwright-core";
import { startStack } from "../harness/stack.ts";

const browser = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));

test("a real browser shows a failover live, and a failover with a reason from the page goes through", {
  skip: browser === undefined && "no Chromium is installed (Debian: apt-get install chromium)",
}, async () => {
  const stack = await startStack();
  const chrome = await chromium.launch({ executablePath: browser as string, args: ["--no-sandbox"] });
  try {
    const page = await chrome.newPage();
    const problems: string[] = [];
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error") problems.push(message.text());
    });
    await page.goto(stack.consoleUrl);
    await page.locator('article[data-upstream="everything"][data-active="primary"]').waitFor({ timeout: 10_000 });
    assert.equal(await page.locator('article[data-upstream="everything"] tr[data-endpoint="primary"] .healthy').count(), 1);

    await stack.killProcess("everything-primary");
    await page.locator('article[data-upstream="everything"][data-active="secondary"]').waitFor({ timeout: 15_000 });
    await page.locator('#events li[data-type="failover.executed"]').first().waitFor({ timeout: 5000 });
    assert.match((await page.locator("#summary").textContent()) ?? "", /all served by a healthy endpoint/);

    await page.locator('article[data-upstream="warehouse"] button').click();
    await page.locator("#reason").fill("rehearsing from the page");
    await page.locator("#confirm").click();
    await page.locator('article[data-upstream="warehouse"][data-active="secondary"]').waitFor({ timeout: 15_000 });
    assert.match((await page.locator('#events li[data-type="failover.decided"]').first().textContent()) ?? "", /rehearsing from the page/);
    assert.deepEqual(problems, []);
  } finally {
    await chrome.close();
    await stack.stop();
  }
});
