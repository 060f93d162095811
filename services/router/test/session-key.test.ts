import assert from "node:assert/strict";
import { readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { sessionSecret } from "../src/session-key.ts";
import { openSession, post, textOf, toolCall } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { startTestRouter } from "./support/router.ts";

const stop: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});
async function dataDir(): Promise<string> {
  const dir = await tempDir();
  stop.push(() => dir.remove());
  return dir.path;
}

test("R2: a session survives a restart of its only router: the next process has the key of the last one, and nothing of its memory", async () => {
  const dir = await dataDir();
  const a = await startMcpServer("a");
  const b = await startMcpServer("b");
  stop.push(a.kill, b.kill);
  const control = fakeControl([a, b]);
  const first = await startTestRouter(control, { secret: await sessionSecret(undefined, dir) });
  const headers = { "mcp-session-id": await openSession(first.mcpUrl) };
  assert.equal(textOf((await post(first.mcpUrl, toolCall(1, "whoami"), headers)).body.result), "a");
  await first.close(0);

  const second = await startTestRouter(control, { secret: await sessionSecret(undefined, dir) });
  stop.push(() => second.close(0));
  assert.equal(textOf((await post(second.mcpUrl, toolCall(2, "whoami"), headers)).body.result), "a");
  assert.equal(a.sessions.size, 1, "it is the same session of the server");
  await a.kill();
  control.move("b");
  assert.equal(textOf((await post(second.mcpUrl, toolCall(3, "whoami"), headers)).body.result), "b", "and it still moves");
  assert.deepEqual([...first.problems, ...second.problems], []);

  const stranger = await startTestRouter(control, { secret: await sessionSecret(undefined, await dataDir()) });
  stop.push(() => stranger.close(0));
  assert.equal((await post(stranger.mcpUrl, toolCall(4, "whoami"), headers)).status, 404, "without the key it is nobody's");
});

test("of several processes that start at once, one makes the key and all have it; nobody else may read it", async () => {
  const dir = await dataDir();
  const secrets = await Promise.all(Array.from({ length: 20 }, () => sessionSecret(undefined, dir)));
  assert.equal(new Set(secrets).size, 1);
  assert.ok((secrets[0] ?? "").length >= 32);
  assert.deepEqual(await readdir(join(dir, "router")), ["session.key"], "nothing else is left there");
  assert.equal((await stat(join(dir, "router", "session.key"))).mode & 0o777, 0o600);
  assert.equal(await sessionSecret("given by the operator", dir), "given by the operator");
});

test("a damaged key is not taken: whoever starts is told what to do", async () => {
  const dir = await dataDir();
  await sessionSecret(undefined, dir);
  await writeFile(join(dir, "router", "session.key"), "short");
  await assert.rejects(sessionSecret(undefined, dir), /session\.key is damaged: remove it/);
});
