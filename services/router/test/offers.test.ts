import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import fc from "fast-check";
import { createOfferBook, type OfferDifference } from "../src/mcp/offer-book.ts";
import { connectV1, textOf } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const [newer, older] = ["2025-11-25", "2025-06-18"] as const;
const full = { tools: {}, logging: {}, resources: { subscribe: true } };

describe("what endpoints of one upstream offer", () => {
  const told: OfferDifference[] = [];
  const lacked = (): Set<string> => new Set(told.map(({ lacks }) => lacks.join()));
  const book = () => {
    told.length = 0;
    return createOfferBook((found) => told.push(found));
  };

  test("R3, O2: is told to the operator where a session could not move: what is missing, and where, once", () => {
    const offers = book();
    for (const endpoint of ["a", "b"]) offers.learn("up", endpoint, newer, { protocolVersion: newer, capabilities: full });
    assert.deepEqual(told, [], "the same offers");
    for (let time = 0; time < 3; time++) offers.learn("up", "c", newer, { protocolVersion: newer, capabilities: { tools: {} } });
    const lacks = ["logging", "resources", "resources.subscribe"];
    assert.deepEqual(told, [
      { upstream: "up", endpoint: "c", other: "a", lacks },
      { upstream: "up", endpoint: "c", other: "b", lacks },
    ]);
    told.length = 0;
    offers.learn("other", "c", newer, { protocolVersion: newer, capabilities: { tools: {} } });
    assert.deepEqual(told, [], "another upstream's endpoint is nothing to these");
    offers.learn("up", "c", newer, { protocolVersion: newer, capabilities: { tools: {}, logging: {} } });
    assert.deepEqual(lacked(), new Set(["resources,resources.subscribe"]), "it has become something else");
  });

  test("R3: one that comes down to an older version is told of, and is no less for sessions of that version", () => {
    const offers = book();
    offers.learn("up", "a", newer, { protocolVersion: newer, capabilities: full });
    offers.learn("up", "b", newer, { protocolVersion: older, capabilities: { ...full, prompts: {} } });
    assert.deepEqual(told, [{ upstream: "up", endpoint: "b", other: "a", lacks: [`protocol ${newer}`] }]);
    offers.learn("up", "a", older, { protocolVersion: older, capabilities: full });
    assert.deepEqual(told.slice(1), [{ upstream: "up", endpoint: "a", other: "b", lacks: ["prompts"] }]);
  });

  test("whatever servers and clients say is taken, and kept within bounds", () => {
    const anything = fc.oneof(
      fc.jsonValue(),
      fc.record({ protocolVersion: fc.constantFrom(newer, older, 1, null), capabilities: fc.jsonValue() }),
    );
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom("a", "b"), fc.oneof(fc.constantFrom(newer, older), fc.jsonValue()), anything)),
        (all) => {
          const offers = book();
          for (const [endpoint, asked, result] of all) offers.learn("up", endpoint, asked, result);
          for (const { endpoint, other, lacks } of told) assert.ok(endpoint !== other && lacks.length > 0);
        },
      ),
    );
    const offers = book();
    for (let day = 10; day < 100; day++)
      offers.learn("up", "a", `2025-01-${day}`, { protocolVersion: `2025-01-${day}`, capabilities: full });
    offers.learn("up", "b", "2025-01-99", { protocolVersion: older, capabilities: {} });
    assert.deepEqual(told, [], "only the first versions that clients ask for are kept");
  });
});

describe("an upstream whose endpoints offer different things", () => {
  let router: TestRouter;
  const servers: TestMcpServer[] = [];
  const said: { details: object; message: string }[] = [];
  afterEach(async () => {
    await router.close(0);
    for (const server of servers.splice(0)) await server.kill();
    assert.deepEqual(router.problems, []);
  });

  test("R3, O1: each client is offered what its own endpoint offers, as without the router, and the operator hears what does not fit", async () => {
    said.length = 0;
    const [a, less] = [await startMcpServer("a"), await startMcpServer("less", { capabilities: "fewer" })];
    servers.push(a, less);
    const control = fakeControl([less, a]);
    router = await startTestRouter(control, { log: (details, message) => void said.push({ details, message }) });
    const differences = (): object[] => said.filter(({ message }) => /offer different things/.test(message)).map(({ details }) => details);
    for (const [active, server] of [
      ["less", less],
      ["a", a],
    ] as const) {
      control.move(active);
      const [routed, direct] = [await connectV1(router.mcpUrl), await connectV1(server.url)];
      assert.deepEqual(routed.client.getServerCapabilities(), direct.client.getServerCapabilities());
      assert.equal(textOf(await routed.client.callTool({ name: "whoami" })), active);
      await routed.client.close();
      await direct.client.close();
    }
    const [found, ...more] = differences() as OfferDifference[];
    assert.deepEqual([found?.upstream, found?.endpoint, found?.other, more], ["fake", "less", "a", []]);
    assert.ok(found?.lacks.includes("resources.subscribe"), JSON.stringify(found));
  });

  test("R3: and a session that would have moved to less says so at the latest then", async () => {
    said.length = 0;
    const [a, less] = [await startMcpServer("a"), await startMcpServer("less", { capabilities: "fewer" })];
    servers.push(a, less);
    router = await startTestRouter(fakeControl([a, less]), { log: (details, message) => void said.push({ details, message }) });
    const { client } = await connectV1(router.mcpUrl);
    await a.kill();
    await assert.rejects(client.callTool({ name: "whoami" }));
    assert.ok(
      said.some(({ details, message }) => /offer different things/.test(message) && (details as OfferDifference).endpoint === "less"),
    );
    await client.close();
  });
});
