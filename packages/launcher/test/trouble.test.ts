import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { assertNothingLeft, launch } from "./launch.ts";

test("what is not ready in time is named, the stack goes on, and a crash is restarted with growing pauses", async (t) => {
  const stack = await launch(t, { env: { MCPF_FAKE_UNREADY: "prober-2", MCPF_FAKE_CRASH: "notifier-1" } });
  await stack.said(/^ {2}prober-2 is not ready: neighbour \(it is not there\)$/m);
  const output = await stack.said(/^ {2}notifier-1 is (backing_off|starting) after \d+ restarts$/m);
  assert.doesNotMatch(output, /^ready /m);
  await stack.said(/starting it again in 800 ms/);
  const pauses = [...stack.output().matchAll(/\[notifier-1\] it ended with exit code 7; starting it again in (\d+) ms/g)].map(([, ms]) =>
    Number(ms),
  );
  assert.deepEqual(pauses.slice(0, 4), [100, 200, 400, 800]);
  stack.child.kill("SIGINT");
  assert.equal(await stack.exit(), 0);
  await assertNothingLeft(stack);
});

test("when bootstrap fails, the launcher says what it said, stops everything and exits with 1", async (t) => {
  const stack = await launch(t, { env: { MCPF_FAKE_BOOTSTRAP: "fail" } });
  assert.equal(await stack.exit(), 1);
  assert.match(stack.output(), /bootstrap ended with exit code 1.*\n {2}the streams could not be made/);
  await assertNothingLeft(stack);
});

test("a data directory in use and ports in use are refused with what to do, and the running stack does not notice", async (t) => {
  const stack = await launch(t);
  await stack.said(/^ready /m);
  const sameDir = await launch(t, { dataDir: stack.dataDir });
  assert.equal(await sameDir.exit(), 1);
  assert.match(
    sameDir.output(),
    new RegExp(`is in use by the stack of process ${stack.child.pid}; stop that one, or give another --data-dir`),
  );
  const samePorts = await launch(t, { portBase: stack.portBase });
  assert.equal(await samePorts.exit(), 1);
  assert.match(
    samePorts.output(),
    new RegExp(`ports .*${stack.portBase + 2}.* in use; stop what listens there, or give another --port-base`),
  );
  assert.equal(stack.child.exitCode, null);
  stack.child.kill("SIGINT");
  assert.equal(await stack.exit(), 0);
});

test("a data directory that cannot be made, and damage in it, end the start with one line that says where and what to do", async (t) => {
  const stack = await launch(t, { args: ["--help"] });
  assert.equal(await stack.exit(), 0);
  const { dataDir } = stack;
  const config = ["--config", join(dataDir, "failover.yaml"), "--port-base", String(stack.portBase)];
  const said = async (folder: string): Promise<string> => {
    const refused = await launch(t, { dataDir, portBase: stack.portBase, args: [...config, "--data-dir", folder] });
    assert.equal(await refused.exit(30_000), 1);
    return refused.output().replaceAll(dataDir, "DIR").trim();
  };
  const file = join(dataDir, "file");
  writeFileSync(file, "");
  for (const folder of [file, join(file, "below")])
    assert.match(
      await said(folder),
      /^mcp-failover: the data directory DIR\/file(\/below)? cannot be used: E[A-Z]+: .*; give another --data-dir$/,
    );
  const keys = join(dataDir, "credentials", "nats", "keys.json");
  const whole = await launch(t, { dataDir, portBase: stack.portBase, env: { MCPF_FAKE_BOOTSTRAP: "fail" } });
  assert.equal(await whole.exit(30_000), 1);
  writeFileSync(keys, "");
  assert.equal(await said(dataDir), "mcp-failover: DIR/credentials/nats/keys.json is damaged: remove it and start again");
});
