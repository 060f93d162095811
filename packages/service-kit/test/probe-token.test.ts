import assert from "node:assert/strict";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { openSecrets, ProbeTokenError, probeTokenFile, readProbeTokens } from "../src/index.ts";

const token = (letter: string): string => letter.repeat(32);

test("the token of probers is the secret of its name, else what lies beside the credentials for the bus, read anew each time; else there is none", async (t) => {
  const { path: folder, remove } = await tempDir();
  t.after(remove);
  const file = join(folder, probeTokenFile);
  const none = openSecrets({}, undefined);
  assert.deepEqual(readProbeTokens(none, undefined), []);
  assert.deepEqual(readProbeTokens(none, folder), [], "credentials of an earlier version have no token");
  await writeFile(file, `${token("a")}\n`);
  assert.deepEqual(readProbeTokens(none, folder), [token("a")]);
  await writeFile(file, `${token("b")}\n${token("a")}\n`);
  assert.deepEqual(readProbeTokens(none, folder), [token("b"), token("a")], "one that replaces another, and the other");
  assert.deepEqual(readProbeTokens(openSecrets({ MCPF_PROBE_TOKEN: token("c") }, undefined), folder), [token("c")]);
  const secrets = join(folder, "secrets");
  await mkdir(secrets);
  await writeFile(join(secrets, "MCPF_PROBE_TOKEN"), `${token("d")}\n`);
  assert.deepEqual(readProbeTokens(openSecrets({}, secrets), folder), [token("d")]);
});

test("a token that is too short, or none at all, is refused with what to do and without what it is", async (t) => {
  const { path: folder, remove } = await tempDir();
  t.after(remove);
  const refused = (act: () => unknown, what: RegExp): void => {
    assert.throws(act, (error: unknown) => {
      assert.ok(error instanceof ProbeTokenError);
      assert.match(error.message, what);
      assert.doesNotMatch(error.message, /hunter2/);
      return true;
    });
  };
  refused(
    () => readProbeTokens(openSecrets({ MCPF_PROBE_TOKEN: "hunter2" }, undefined), undefined),
    /MCPF_PROBE_TOKEN is no token: give 16 to 512/,
  );
  refused(() => readProbeTokens(openSecrets({ MCPF_PROBE_TOKEN: `hunter2 ${token("a")}` }, undefined), undefined), /16 to 512/);
  const none = openSecrets({}, undefined);
  await writeFile(join(folder, probeTokenFile), "\n");
  refused(() => readProbeTokens(none, folder), /probe\.token is empty.*dev:credentials/);
  await writeFile(join(folder, probeTokenFile), `${token("a")}\nhunter2\n`);
  refused(() => readProbeTokens(none, folder), /probe\.token is no token/);
  if (process.getuid?.() === 0) return;
  await chmod(join(folder, probeTokenFile), 0);
  refused(() => readProbeTokens(none, folder), /cannot be read \(EACCES\)/);
});
