import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { consoleToken } from "../src/console-token.ts";
import { assertNothingLeft, type Launched, launch } from "./launch.ts";

test("the console's token outlives a restart, with permissions on the bus and without, and is told to the console and to a terminal alone", async (t) => {
  const first = await launch(t, { env: { MCPF_BUS_PERMISSIONS: "on", MCPF_FAKE_TERMINAL: "1" } });
  await first.said(/^ready /m);
  const file = join(first.dataDir, "credentials", "cli", "console.token");
  const token = readFileSync(file, "utf8").trim();
  assert.ok(token.length >= 43);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  await first.said(`to act in the console: http://127.0.0.1:${first.portBase + 1}/#token=${token}\n`);
  assert.deepEqual(await knowing(first, token), [], "it reads its credentials");
  await stopped(first);

  const { dataDir, portBase } = first;
  const second = await launch(t, { dataDir, portBase, env: { MCPF_BUS_PERMISSIONS: "off" } });
  await second.said(/^ready /m);
  await second.said(`to act in the console give it its token: ${file}\n`);
  assert.deepEqual(await knowing(second, token), ["console-1"]);
  const texts = ["stack.json", ...readdirSync(join(dataDir, "logs")).map((name) => join("logs", name))];
  for (const name of texts) assert.ok(!readFileSync(join(dataDir, name), "utf8").includes(token), name);
  await stopped(second);
  assert.ok(!second.output().includes(token));
  assert.equal(readFileSync(file, "utf8").trim(), token);
});

test("a token that is given is taken as it is, and its link is read as it was given", () => {
  const given = "a+token/of-ones=own";
  const token = consoleToken({ env: { MCPF_CONSOLE_TOKEN: given }, dataDir: "/nowhere", credentials: null });
  assert.deepEqual(token.env, { MCPF_CONSOLE_TOKEN: given });
  assert.equal(token.place, "the secret MCPF_CONSOLE_TOKEN");
  const { hash } = new URL(token.link("http://127.0.0.1:7301"));
  assert.equal(new URLSearchParams(hash.slice(1)).get("token"), given, "as the page reads it");
});

test("what cannot be a token is refused before anything starts, without saying what it is", async (t) => {
  const stack = await launch(t, { env: { MCPF_CONSOLE_TOKEN: "hunter2" } });
  assert.equal(await stack.exit(), 1);
  assert.match(stack.output(), /^mcp-failover: the secret MCPF_CONSOLE_TOKEN is no token: give 16 to 512 /m);
  assert.ok(!stack.output().includes("hunter2"));
});

/** The services in whose environment a text is. */
async function knowing(stack: Launched, text: string): Promise<string[]> {
  const environments = await Promise.all(
    Array.from({ length: 12 }, async (_, index) => (await fetch(`http://127.0.0.1:${stack.portBase + 61 + index}/env`)).text()),
  );
  return environments.filter((env) => env.includes(text)).map((env) => JSON.parse(env).MCPF_INSTANCE);
}

async function stopped(stack: Launched): Promise<void> {
  stack.child.kill("SIGINT");
  assert.equal(await stack.exit(), 0);
  await assertNothingLeft(stack);
}
