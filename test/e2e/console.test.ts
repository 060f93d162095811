import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { chromium, type Page } from "playwright-core";
import { startStack } from "../harness/stack.ts";

const browser = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));

test("a real browser shows a failover live to anybody, and a failover with a reason goes through for who has the token", {
  skip: browser === undefined && "no Chromium is installed (Debian: apt-get install chromium)",
}, async () => {
  const stack = await startStack();
  const chrome = await chromium.launch({ executablePath: browser as string, args: ["--no-sandbox"] });
  const problems: string[] = [];
  /** As somebody who has never been here. */
  const visit = async (url: string): Promise<Page> => {
    const page = await (await chrome.newContext()).newPage();
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error") problems.push(message.text());
    });
    await page.goto(url);
    return page;
  };
  const open = (page: Page): Promise<void> => page.locator('article[data-upstream="warehouse"] button').click();
  try {
    const page = await visit(stack.consoleUrl);
    await page.locator('article[data-upstream="everything"][data-active="primary"]').waitFor({ timeout: 10_000 });
    assert.equal(await page.locator('article[data-upstream="everything"] tr[data-endpoint="primary"] .healthy').count(), 1);

    await stack.killProcess("everything-primary");
    await page.locator('article[data-upstream="everything"][data-active="secondary"]').waitFor({ timeout: 15_000 });
    await page.locator('#events li[data-type="failover.executed"]').first().waitFor({ timeout: 5000 });
    assert.match((await page.locator("#summary").textContent()) ?? "", /all served by a healthy endpoint/);

    const file = /^to act in the console give it its token: (.+)$/m.exec(stack.output())?.[1] ?? assert.fail(stack.output());
    const token = readFileSync(file, "utf8").trim();
    await open(page);
    await page.locator("#token").waitFor({ timeout: 5000 });
    assert.match((await page.locator("#token-part").textContent()) ?? "", /console\.token/);
    await page.locator("#reason").fill("rehearsing from the page");
    await page.locator("#token").fill("what somebody else might try");
    await page.locator("#confirm").click();
    await page.locator("#dialog-error", { hasText: "this is not the console's token" }).waitFor({ timeout: 5000 });
    assert.match(problems.splice(0).join(), /^Failed to load resource: the server responded with a status of 401[^,]*$/);
    await page.locator("#token").fill(token);
    await page.locator("#confirm").click();
    await page.locator('article[data-upstream="warehouse"][data-active="secondary"]').waitFor({ timeout: 15_000 });
    assert.match((await page.locator('#events li[data-type="failover.decided"]').first().textContent()) ?? "", /rehearsing from the page/);
    await page.locator("#dialog").waitFor({ state: "hidden", timeout: 5000 });
    await open(page);
    await page.locator("#reason").waitFor({ timeout: 5000 });
    assert.equal(await page.locator("#token").isVisible(), false, "it was given once");

    const linked = await visit(`${stack.consoleUrl}/#token=${encodeURIComponent(token)}`);
    await linked.waitForURL(`${stack.consoleUrl}/`, { timeout: 5000 });
    await linked.locator('article[data-upstream="warehouse"][data-active="secondary"]').waitFor({ timeout: 10_000 });
    await open(linked);
    await linked.locator("#reason").fill("and back, by the link");
    assert.equal(await linked.locator("#token").isVisible(), false);
    await linked.locator("#confirm").click();
    await linked.locator('article[data-upstream="warehouse"][data-active="primary"]').waitFor({ timeout: 15_000 });
    assert.deepEqual(problems, []);
    assert.equal(await linked.evaluate("document.cookie"), "", "no script can read the session");
    assert.equal(await linked.locator("#access").textContent(), "");
  } finally {
    await chrome.close();
    await stack.stop();
  }
});
