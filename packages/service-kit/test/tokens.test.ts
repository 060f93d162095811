import assert from "node:assert/strict";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import {
  bearerOf,
  consoleTokenFile,
  isOneOf,
  openSecrets,
  probeTokenFile,
  readConsoleTokens,
  readProbeTokens,
  TokenError,
} from "../src/index.ts";

const token = (letter: string): string => letter.repeat(32);
const kinds = [
  {
    what: "probers",
    read: readProbeTokens,
    name: probeTokenFile,
    secret: "MCPF_PROBE_TOKEN",
    advice: /the same to every router and prober/,
  },
  {
    what: "the console",
    read: readConsoleTokens,
    name: consoleTokenFile,
    secret: "MCPF_CONSOLE_TOKEN",
    advice: /whoever acts in the console/,
  },
];

for (const { what, read, name, secret, advice } of kinds) {
  test(`the token of ${what} is the secret of its name, else what lies beside the credentials for the bus, read anew each time; else there is none`, async (t) => {
    const { path: folder, remove } = await tempDir();
    t.after(remove);
    const file = join(folder, name);
    const none = openSecrets({}, undefined);
    assert.deepEqual(read(none, undefined), []);
    assert.deepEqual(read(none, folder), [], "credentials of an earlier version have no token");
    await writeFile(file, `${token("a")}\n`);
    assert.deepEqual(read(none, folder), [token("a")]);
    await writeFile(file, `${token("b")}\n${token("a")}\n`);
    assert.deepEqual(read(none, folder), [token("b"), token("a")], "one that replaces another, and the other");
    assert.deepEqual(read(openSecrets({ [secret]: token("c") }, undefined), folder), [token("c")]);
    const secrets = join(folder, "secrets");
    await mkdir(secrets);
    await writeFile(join(secrets, secret), `${token("d")}\n`);
    assert.deepEqual(read(openSecrets({}, secrets), folder), [token("d")]);
  });

  test(`a token of ${what} that is too short, or none at all, is refused with what to do and without what it is`, async (t) => {
    const { path: folder, remove } = await tempDir();
    t.after(remove);
    const refused = (act: () => unknown, words: RegExp): void => {
      assert.throws(act, (error: unknown) => {
        assert.ok(error instanceof TokenError);
        assert.match(error.message, words);
        assert.doesNotMatch(error.message, /hunter2/);
        return true;
      });
    };
    const given = (value: string) => () => read(openSecrets({ [secret]: value }, undefined), undefined);
    refused(given("hunter2"), new RegExp(`${secret} is no token: give 16 to 512`));
    refused(given("hunter2"), advice);
    refused(given(`hunter2 ${token("a")}`), /16 to 512/);
    const none = openSecrets({}, undefined);
    await writeFile(join(folder, name), "\n");
    refused(() => read(none, folder), new RegExp(`${name.replace(".", "\\.")} is empty.*dev:credentials`));
    await writeFile(join(folder, name), `${token("a")}\nhunter2\n`);
    refused(() => read(none, folder), new RegExp(`${name.replace(".", "\\.")} is no token`));
    if (process.getuid?.() === 0) return;
    await chmod(join(folder, name), 0);
    refused(() => read(none, folder), /cannot be read \(EACCES\)/);
  });
}

test("a token is one of those that are known when it is the same from its first to its last letter", () => {
  const known = [token("a"), token("b")];
  for (const same of known) assert.equal(isOneOf(known, same), true);
  for (const other of [token("c"), `${token("a")}a`, token("a").slice(1), `${token("a")} `, "", `${token("a")}\n${token("b")}`])
    assert.equal(isOneOf(known, other), false, JSON.stringify(other));
  assert.equal(isOneOf([], ""), false);
});

test("what a caller shows is one word after `Bearer`, in letters of any size; anything else is nothing", () => {
  for (const header of ["Bearer a.b-c", "bearer a.b-c", "BEARER   a.b-c"]) assert.equal(bearerOf(header), "a.b-c");
  for (const header of [undefined, "", "Bearer", "Bearer ", "Basic a.b-c", "Bearer a b", "a.b-c"])
    assert.equal(bearerOf(header), null, header);
});
