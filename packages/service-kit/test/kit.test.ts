import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { makeEvent, parseTopology, subjectFor } from "@mcp-failover/contracts";
import { tempDir } from "@mcp-failover/testkit";
import fc from "fast-check";
import { z } from "zod";
import { type AppliedTopology, EnvironmentError, followTopology, MissingSecretError, openSecrets, parseEnvironment } from "../src/index.ts";
import { testKit } from "../src/testing.ts";

const yaml = (name: string) =>
  `upstreams:\n  ${name}:\n    kind: http\n    endpoints:\n      - { name: primary, url: "http://127.0.0.1:9001", tier: 0 }\n`;

/** Says a version of the configuration, whatever it holds. */
async function apply(bus: Bus, version: number, topology: unknown): Promise<void> {
  const data = {
    version,
    hash: `hash-${version}`,
    fileHash: null,
    timestamp: new Date().toISOString(),
    by: { kind: "operator", id: "test" } as const,
    reason: "test",
    environment: "production" as const,
    topology,
  };
  const last = await bus.lastOf("AUDIT", subjectFor("config.applied"));
  const event = makeEvent({
    type: "config.applied",
    keys: [],
    data,
    id: `c${version}`,
    service: "cli",
    instance: "test",
    timeMs: Date.now(),
  });
  await bus.appendFenced(event, last?.seq ?? 0);
}

function connect(t: TestContext): Bus {
  const bus = memoryBroker().connect();
  t.after(() => bus.close());
  return bus;
}
const parsed = (name: string) => parseTopology(yaml(name), { file: "test.yaml", env: {} }).topology;

test("the configuration in force is handed over, and each later one; a version that does not parse is skipped, and said to be", async (t) => {
  const bus = connect(t);
  const kit = testKit({ service: "prober", bus });
  const errors: unknown[] = [];
  kit.log.error = ((details: unknown) => errors.push(details)) as typeof kit.log.error;
  await apply(bus, 1, parsed("docs"));
  const heard: AppliedTopology[] = [];
  const following = followTopology(kit, (applied) => {
    heard.push(applied);
  });
  t.after(() => following.stop());
  await apply(bus, 2, { upstreams: { docs: { kind: "carrier pigeon" } } });
  await apply(bus, 3, parsed("shop"));
  for (let waited = 0; heard.at(-1)?.version !== 3 && waited < 5000; waited += 10) await sleep(10);
  assert.deepEqual(
    heard.map(({ version, hash, environment, topology }) => [version, hash, environment, Object.keys(topology.upstreams)]),
    [
      [1, "hash-1", "production", ["docs"]],
      [3, "hash-3", "production", ["shop"]],
    ],
  );
  assert.ok((heard[0]?.seq ?? 0) < (heard[1]?.seq ?? 0));
  assert.equal(errors.length, 1);
  assert.deepEqual(errors[0], {
    version: 2,
    seq: (heard[0]?.seq ?? 0) + 1,
    problem: "upstreams.docs.kind: give one of mcp, http; upstreams.docs.endpoints: it is missing; give a list",
  });
});

test("a secret comes from the environment, else from its file without the line's end; a missing one says what to do", async (t) => {
  const dir = await tempDir("mcpf-secrets-");
  t.after(dir.remove);
  await writeFile(join(dir.path, "FROM_FILE"), "file-value\n");
  await writeFile(join(dir.path, "BOTH"), "file-value");
  await writeFile(join(dir.path, "EMPTY"), "\n");
  const secrets = openSecrets({ BOTH: "environment-value" }, dir.path);
  assert.equal(secrets.resolve({ secret: "FROM_FILE" }), "file-value");
  await writeFile(join(dir.path, "FROM_FILE"), "changed-value\n");
  assert.equal(
    secrets.resolve({ secret: "FROM_FILE" }),
    "file-value",
    "the documentation has it so: all that send it change at their restart",
  );
  assert.equal(secrets.resolve({ secret: "BOTH", prefix: "Bearer " }), "Bearer environment-value");
  assert.equal(secrets.resolve("plain"), "plain");
  assert.deepEqual(["FROM_FILE", "BOTH", "EMPTY", "NOWHERE"].map(secrets.has), [true, true, false, false]);
  assert.throws(
    () => secrets.resolve({ secret: "NOWHERE" }),
    (error) => error instanceof MissingSecretError && /set the environment variable NOWHERE/.test(error.message),
  );
});

test("no value that was read, in no form of it, is left in a text, also when one begins with another", () => {
  const word = fc.string({ minLength: 6, maxLength: 20, unit: fc.constantFrom("q", "z", '"', "\\", "/", "%", " ", "é") });
  fc.assert(
    fc.property(word, word, fc.boolean(), (one, other, nested) => {
      const values = { ONE: one, OTHER: nested ? one + other : other };
      const secrets = openSecrets(values, undefined);
      for (const name of Object.keys(values)) secrets.has(name);
      for (const value of Object.values(values)) {
        for (const form of [value, JSON.stringify(value), JSON.stringify(JSON.stringify(value)), encodeURIComponent(value)]) {
          const clean = secrets.redact(`before <${form}> after`);
          assert.match(clean, /^before <[\\"]*\[secret (ONE|OTHER)\][\\"]*> after$/);
        }
      }
    }),
  );
});

test("values too short to be secrets are left alone, and so are those that nobody read", () => {
  const secrets = openSecrets({ SHORT: "abc", UNREAD: "long-enough" }, undefined);
  secrets.has("SHORT");
  assert.equal(secrets.redact("abc long-enough"), "abc long-enough");
});

test("an environment that fits is given with its defaults; one that does not names every wrong variable", () => {
  const schema = z.object({ PORT: z.coerce.number().int(), NAME: z.string().min(1), LEVEL: z.string().default("info") });
  assert.deepEqual(parseEnvironment(schema, { PORT: "80", NAME: "n" }), { PORT: 80, NAME: "n", LEVEL: "info" });
  assert.throws(
    () => parseEnvironment(schema, { PORT: " ", NAME: "n" }),
    (error) => error instanceof EnvironmentError && /PORT: it is empty/.test(error.message),
  );
  assert.throws(
    () => parseEnvironment(schema, { PORT: "eighty" }),
    (error) => error instanceof EnvironmentError && /\n {2}PORT: give a number\n {2}NAME: it is missing; give text$/.test(error.message),
  );
});
