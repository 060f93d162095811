import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { publishRawToMemory } from "@mcp-failover/bus/internal";
import { type ApplyConfigurationOptions, applyConfiguration, ConfigTooLargeError, configurationInForce } from "@mcp-failover/client";
import { hashOf, parseTopology } from "@mcp-failover/contracts";

function parsed(url: string) {
  return parseTopology(`upstreams: { docs: { kind: http, endpoints: [{ name: primary, url: "${url}", tier: 0 }] } }`, {
    file: "failover.yaml",
    env: {},
  });
}
const fileA = parsed("http://127.0.0.1:1001");
const fileB = parsed("http://127.0.0.1:1002");
const from = (
  what: { topology: ApplyConfigurationOptions["topology"]; hash: string },
  more: Partial<ApplyConfigurationOptions> = {},
): ApplyConfigurationOptions => ({
  ...what,
  fileHash: what.hash,
  environment: "development",
  by: { kind: "operator", id: "ada" },
  reason: "test",
  service: "cli",
  instance: "cli-1",
  nowMs: 1_700_000_000_000,
  onlyIfFileChanged: false,
  ...more,
});
const atStart = {
  service: "bootstrap",
  instance: "bootstrap-1",
  by: { kind: "service", id: "bootstrap-1" },
  reason: "started",
  onlyIfFileChanged: true,
} as const;

test("versions count from 1, and the same configuration makes no new one", async () => {
  const bus = memoryBroker().connect();
  assert.deepEqual(await applyConfiguration(bus, from(fileA)), { applied: true, version: 1, hash: fileA.hash });
  assert.deepEqual(await applyConfiguration(bus, from(fileA)), { applied: false, version: 1, hash: fileA.hash });
  assert.deepEqual(await applyConfiguration(bus, from(fileB)), { applied: true, version: 2, hash: fileB.hash });
  assert.equal(
    (await applyConfiguration(bus, from(fileB, { environment: "production" }))).version,
    3,
    "another environment is another version",
  );
  await bus.close();
});

test("behind a malformed one the version before it is in force, and the next one goes on from there", async () => {
  const broker = memoryBroker();
  const bus = broker.connect();
  await applyConfiguration(bus, from(fileA));
  publishRawToMemory(broker, "config.applied", "no event");
  assert.equal((await configurationInForce(bus))?.version, 1);
  assert.deepEqual(await applyConfiguration(bus, from(fileB)), { applied: true, version: 2, hash: fileB.hash });
  await bus.close();
});

test("the log wins over the file: a start applies the file only when it has changed since it was last applied", async () => {
  const bus = memoryBroker().connect();
  await applyConfiguration(bus, from(fileA, atStart));
  await applyConfiguration(bus, from(fileB, { fileHash: null, reason: "an operator's patch" }));
  assert.equal((await applyConfiguration(bus, from(fileA, atStart))).version, 2);
  assert.equal((await applyConfiguration(bus, from(fileA))).version, 3, "an operator may apply it again by hand");
  assert.equal((await applyConfiguration(bus, from(fileB, atStart))).version, 4, "a changed file is applied");
  await bus.close();
});

test("what an operator has applied from another file stays in force at every start with the file as it was, and the start says whose it is", async () => {
  const bus = memoryBroker().connect();
  const hotfix = parsed("http://127.0.0.1:1003");
  await applyConfiguration(bus, from(fileA, atStart));
  await applyConfiguration(bus, from(hotfix, { reason: "hotfix" }));
  const keptInstead = { by: { kind: "operator", id: "ada" }, reason: "hotfix" };
  for (const again of [1, 2])
    assert.deepEqual(
      await applyConfiguration(bus, from(fileA, atStart)),
      { applied: false, version: 2, hash: hotfix.hash, keptInstead },
      `start ${again}`,
    );
  assert.equal((await applyConfiguration(bus, from(fileB, atStart))).version, 3, "a file that no start has read is applied");
  await applyConfiguration(bus, from(hotfix));
  assert.equal((await applyConfiguration(bus, from(fileB, atStart))).version, 4, "and that one stays in force from then on");
  assert.equal((await applyConfiguration(bus, from(fileA, atStart))).version, 5, "one that was read before that is another one again");
  await bus.close();
});

test("a file that an operator has applied by hand is known to the next start, also when another one was applied after it", async () => {
  const bus = memoryBroker().connect();
  await applyConfiguration(bus, from(fileA, atStart));
  await applyConfiguration(bus, from(fileB, { reason: "the file was changed, and applied at once" }));
  assert.deepEqual(await applyConfiguration(bus, from(fileB, atStart)), { applied: false, version: 2, hash: fileB.hash });
  await applyConfiguration(bus, from(parsed("http://127.0.0.1:1003"), { reason: "hotfix" }));
  assert.equal((await applyConfiguration(bus, from(fileB, atStart))).version, 3);
  assert.equal(
    (await applyConfiguration(bus, from(fileB, { ...atStart, environment: "production" }))).version,
    4,
    "for another environment",
  );
  await bus.close();
});

test("a start finds the configuration of an operator before any start did: the file is applied once, and never again", async () => {
  const bus = memoryBroker().connect();
  await applyConfiguration(bus, from(fileB));
  assert.equal((await applyConfiguration(bus, from(fileA, atStart))).version, 2);
  await applyConfiguration(bus, from(fileB));
  assert.equal((await applyConfiguration(bus, from(fileA, atStart))).version, 3);
  await bus.close();
});

test("of ten that apply at once each gets a version of its own, without a gap", async () => {
  const broker = memoryBroker();
  const files = Array.from({ length: 10 }, (_, index) => parsed(`http://127.0.0.1:${2000 + index}`));
  const results = await Promise.all(
    files.map((file, index) => applyConfiguration(broker.connect(), from(file, { instance: `cli-${index}` }))),
  );
  assert.deepEqual(
    results.map((result) => result.version).sort((a, b) => a - b),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  );
});

test("of ten starts at once with one file, one applies it", async () => {
  const broker = memoryBroker();
  const results = await Promise.all(
    Array.from({ length: 10 }, (_, index) =>
      applyConfiguration(broker.connect(), from(fileA, { ...atStart, instance: `bootstrap-${index}` })),
    ),
  );
  assert.equal(results.filter((result) => result.applied).length, 1);
  assert.ok(results.every((result) => result.version === 1));
});

const withContacts = (count: number) => ({
  ...fileA.topology,
  contacts: Object.fromEntries(Array.from({ length: count }, (_, index) => [`team-${index}`, "x".repeat(100)])),
});

test("a configuration too large for one event is applied and read back whole, and the same one again makes no new version", async () => {
  const broker = memoryBroker();
  const topology = withContacts(20_000);
  const large = from({ topology, hash: hashOf(topology) });
  assert.deepEqual(await applyConfiguration(broker.connect(), large), { applied: true, version: 1, hash: large.hash });
  const other = broker.connect();
  const last = await other.lastOf("AUDIT", "config.applied");
  assert.ok(last?.content.kind === "event" && last.content.event.type === "config.applied");
  assert.equal(hashOf(last.content.event.data.topology), large.hash);
  assert.equal((await applyConfiguration(other, large)).applied, false);
});

test("a configuration over 16 MiB is refused with its size", async () => {
  const bus = memoryBroker().connect();
  const { contacts } = withContacts(160_000);
  await assert.rejects(applyConfiguration(bus, from({ ...fileA, topology: { ...fileA.topology, contacts } })), ConfigTooLargeError);
  assert.equal(await bus.lastOf("AUDIT", "config.applied"), null);
  await bus.close();
});
