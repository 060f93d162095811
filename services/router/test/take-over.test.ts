import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "@mcp-failover/testkit";
import { principalOf } from "../src/identity/principal.ts";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import { eventsIn } from "../src/mcp/sse.ts";
import { initializeBody, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startTestFleet } from "./support/fleet.ts";
import { guardOf } from "./support/guard.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { type Scripted, type ScriptedServer, startScriptedServer, stream } from "./support/scripted-server.ts";
import { controlOf } from "./support/several.ts";

type Headers = Record<string, string>;
const primed = "2025-11-25";
const older = "2025-06-18";

/** What a GET has got so far. */
interface Heard {
  readonly status: number;
  readonly retryAfter: string | undefined;
  readonly isOver: boolean;
  readonly ids: readonly string[];
  /** The texts of log messages, and the names of all others. */
  readonly said: readonly string[];
  readonly socket: Socket;
}

describe("a client whose connection is half open", () => {
  let server: ScriptedServer;
  /** The streams at the upstream, which takes one a session at a time, as servers do. */
  let streams: Scripted[];
  let control: FakeControl;
  let router: TestRouter;
  const closings: (() => unknown)[] = [];
  beforeEach(async () => {
    streams = [];
    server = await startScriptedServer("s");
    server.answer = (asked) => {
      const { method, message, response } = asked;
      if (method === "initialize") {
        const { protocolVersion } = message.params ?? {};
        const capabilities = { logging: {}, tools: { listChanged: true } };
        const result = { protocolVersion, capabilities, serverInfo: { name: "s", version: "1" } };
        response.writeHead(200, { "content-type": "application/json", "mcp-session-id": `s-${server.heard.length}` });
        response.end(JSON.stringify({ jsonrpc: "2.0", id: message.id, result }));
        return true;
      }
      if (method !== "GET") return false;
      const isOfSame = ({ request }: Scripted): boolean => request.headers["mcp-session-id"] === asked.request.headers["mcp-session-id"];
      if (streams.some((other) => isOfSame(other) && !other.response.destroyed)) response.writeHead(409).end();
      else {
        stream(asked);
        streams.push(asked);
      }
      return true;
    };
    control = controlOf({ fake: fakeControl([{ name: "only", url: server.url }]) });
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    for (const close of closings.splice(0).reverse()) await close();
    await router.close(0);
    await server.kill();
    assert.deepEqual(router.problems, []);
  });

  const say = (...texts: readonly string[]): void => {
    const asked = streams.findLast(({ response }) => !response.destroyed);
    assert.ok(asked !== undefined, "nobody listens to the server");
    for (const data of texts) stream(asked, { method: "notifications/message", params: { level: "error", data } });
  };
  const begin = async (url: URL | string, protocolVersion: string, headers: Headers = {}): Promise<Headers> => {
    const begun = await post(url, { ...initializeBody, params: { ...initializeBody.params, protocolVersion } }, headers);
    const session = { ...headers, "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    await post(url, { jsonrpc: "2.0", method: "notifications/initialized" }, session);
    return session;
  };
  /** A GET on a connection of its own. Once its socket is paused it takes nothing, says nothing, and is not closed: nobody can tell it from a live one. */
  const get = async (url: URL | string, headers: Headers): Promise<Heard> => {
    const { hostname, port, pathname } = new URL(url);
    const socket = connect(Number(port), hostname);
    closings.push(() => socket.destroy());
    socket.on("error", () => undefined);
    let text = "";
    socket.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    await once(socket, "connect");
    const lines = Object.entries({ host: `${hostname}:${port}`, accept: "text/event-stream", ...headers }).map((line) => line.join(": "));
    socket.write(`GET ${pathname} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
    await until(() => text.includes("\r\n\r\n"));
    // Each chunk between its length and the end of its line.
    const events = () => eventsIn(text.slice(text.indexOf("\r\n\r\n") + 4).replace(/(^|\r\n)[0-9a-f]+\r\n/g, ""));
    return {
      status: Number(text.slice(9, 12)),
      retryAfter: /^retry-after: (.*)\r$/im.exec(text)?.[1],
      socket,
      get isOver() {
        return text.endsWith("\r\n0\r\n\r\n");
      },
      get ids() {
        return events().flatMap(({ id }) => id ?? []);
      },
      get said() {
        return events()
          .filter(({ data }) => data !== "")
          .map(({ data }) => JSON.parse(data) as { method: string; params?: { data?: string } })
          .map(({ method, params }) => params?.data ?? method);
      },
    };
  };
  const hears = async (heard: Heard, ...texts: readonly string[]): Promise<void> => {
    await until(() => heard.said.length >= texts.length);
    assert.deepEqual(heard.said, texts);
  };
  /** While a stream is opened anew a server says it to nobody. */
  const sayUntil = (heard: Heard, text: string): Promise<unknown> =>
    eventually(() => {
      if (streams.some(({ response }) => !response.destroyed)) say(text);
      return heard.said.includes(text);
    });
  /** Each takes its stream away from the one before; there is a second between them. */
  const afterPause = (): Promise<unknown> => sleep(1050);

  for (const place of ["/mcp/fake", "/mcp"]) {
    const at = (one: TestRouter = router): string => `${one.url}${place}`;
    const ready = async (session: Headers): Promise<void> => {
      if (place === "/mcp") await post(at(), toolCall(2, "fake__x"), session);
    };
    const heardBy = async (heard: Heard): Promise<Heard> => {
      await until(() => streams.some(({ response }) => !response.destroyed));
      return heard;
    };

    test(`T1, T2: that knows no event id takes its stream over on ${place}, with what may never have reached it; nothing new goes to the old one, which ends`, async () => {
      const session = await begin(at(), older);
      await ready(session);
      const hung = await heardBy(await get(at(), session));
      hung.socket.pause();
      say("one");
      await sleep(100);
      const back = await get(at(), session);
      assert.equal(back.status, 200);
      await hears(back, "one");
      say("two");
      await hears(back, "one", "two");
      hung.socket.resume();
      await until(() => hung.isOver);
      assert.deepEqual(hung.said, ["one"]);
      await sleep(100);
      say("three");
      await hears(back, "one", "two", "three");
      assert.equal(streams.length, 1, "the server has seen nothing of it");
    });

    test(`T1: has the id of an empty event on ${place} with each connection of ${primed}, and gets what came after it, once; older clients get no such event`, async () => {
      const before = await begin(at(), older);
      assert.deepEqual((await get(at(), before)).ids, []);
      const session = await begin(at(), primed);
      await ready(session);
      const first = await heardBy(await get(at(), session));
      await until(() => first.ids.length === 1);
      assert.deepEqual(first.said, []);
      say("one");
      await hears(first, "one");
      const [, lastId = ""] = first.ids;
      first.socket.pause();
      say("two");
      const second = await get(at(), { ...session, "last-event-id": lastId });
      await hears(second, "two");
      assert.equal(second.ids[0], lastId, "it is where it was");
      second.socket.pause();
      say("three");
      await afterPause();
      const third = await get(at(), { ...session, "last-event-id": second.ids[0] ?? "" });
      await hears(third, "two", "three");
      say("four");
      await hears(third, "two", "three", "four");
      first.socket.resume();
      await until(() => first.isOver);
      assert.deepEqual(first.said, ["one", "two"]);
    });

    test(`T3: takes its stream on ${place} from one that took it a second ago, and no sooner, with an id or without`, async () => {
      for (const version of [older, primed]) {
        const session = await begin(at(), version);
        const first = await get(at(), session);
        const second = await get(at(), session);
        assert.deepEqual([first.status, second.status], [200, 200]);
        await until(() => first.isOver);
        const ids = [{}, ...second.ids.map((id) => ({ "last-event-id": id }))];
        for (const id of ids) {
          const third = await get(at(), { ...session, ...id });
          assert.deepEqual([third.status, third.retryAfter, second.isOver], [409, "1", false]);
        }
        await afterPause();
        assert.equal((await get(at(), session)).status, 200);
        await until(() => second.isOver);
      }
    });

    test(`T3: need not wait on ${place} where the old connection is known to be closed`, async () => {
      const session = await begin(at(), older);
      for (let times = 0; times < 4; times += 1) {
        const own = await get(at(), session);
        assert.equal(own.status, 200);
        own.socket.destroy();
        await sleep(50);
      }
    });

    test(`T4: has its stream on ${place} at another router process by the id of an empty event`, async () => {
      const fleet = await startTestFleet(() => control);
      closings.push(() => fleet.close());
      const session = await begin(at(fleet.one), primed);
      if (place === "/mcp") await post(at(fleet.one), toolCall(2, "fake__x"), session);
      const hung = await heardBy(await get(at(fleet.one), session));
      await until(() => hung.ids.length === 1);
      hung.socket.pause();
      say("one");
      await sleep(100);
      const back = await get(at(fleet.two), { ...session, "last-event-id": hung.ids[0] ?? "" });
      assert.equal(back.status, 200);
      // What was said on /mcp is known to the first process alone.
      await until(() => back.said.includes(place === "/mcp" ? "notifications/tools/list_changed" : "one"));
      hung.socket.resume();
      await until(() => hung.isOver);
      await sayUntil(back, "two");
      assert.deepEqual(hung.said, ["one"]);
    });

    test(`T1: loses its stream on ${place} to no other agent`, async () => {
      const agents = new Map(
        ["alice", "bob"].map((name) => [name, principalOf(`agent:${name}`, name, { upstreams: ["*"], tools: ["*"] })]),
      );
      const guarded = await startTestRouter(control, { guard: guardOf(agents) });
      closings.push(() => guarded.close(0));
      const session = await begin(at(guarded), primed, { authorization: "alice" });
      if (place === "/mcp") await post(at(guarded), toolCall(2, "fake__x"), session);
      const own = await heardBy(await get(at(guarded), session));
      await until(() => own.ids.length === 1);
      for (const id of [{}, { "last-event-id": own.ids[0] ?? "" }]) {
        assert.equal((await get(at(guarded), { ...session, ...id, authorization: "bob" })).status, 404);
      }
      say("one");
      await hears(own, "one");
      assert.equal(own.isOver, false);
    });

    test(`T2: hears on ${place} that all may have changed where what it may have missed is not kept any more`, async () => {
      const session = await begin(at(), older);
      await ready(session);
      const hung = await heardBy(await get(at(), session));
      await hears(hung);
      for (let number = 1; number <= 520; number += 1) say(String(number));
      await until(() => hung.said.length === 520);
      hung.socket.pause();
      const back = await get(at(), session);
      await until(() => back.said.includes("notifications/tools/list_changed"));
      assert.deepEqual(
        back.said.slice(0, 512),
        Array.from({ length: 512 }, (_, at) => String(at + 9)),
      );
    });
  }

  for (const [version, what] of [
    [older, "before it came there"],
    [primed, "while it was there"],
  ] as const) {
    test(`T2: hears that all may have changed where what it may have missed was said to another router process ${what}`, async () => {
      const fleet = await startTestFleet(() => control);
      closings.push(() => fleet.close());
      const session = await begin(fleet.one.mcpUrl, version);
      if (version === older) say("one");
      const hung = await get(fleet.two.mcpUrl, session);
      if (version === primed) {
        await until(() => hung.ids.length === 1);
        // The first process still has the stream at the server, and passes on what comes.
        say("one");
      }
      await hears(hung, "one");
      hung.socket.pause();
      const back = await get(fleet.two.mcpUrl, { ...session, ...(version === older ? {} : { "last-event-id": hung.ids[0] ?? "" }) });
      assert.equal(back.status, 200);
      await hears(back, "notifications/tools/list_changed");
      await sayUntil(back, "two");
    });
  }

  test("T1: keeps its stream when the rights of its old connection end", async () => {
    let isGood = true;
    const grant = { upstreams: ["*"], tools: ["*"] };
    const known = new Map([
      ["old", principalOf("agent:alice", "alice", grant, () => isGood)],
      ["new", principalOf("agent:alice", "alice", grant)],
    ]);
    const guarded = await startTestRouter(control, { guard: guardOf(known) });
    closings.push(() => guarded.close(0));
    const session = await begin(guarded.mcpUrl, older, { authorization: "new" });
    // It takes nothing, and more than the system holds of a connection: it stays as it is.
    const hung = await get(guarded.mcpUrl, { ...session, authorization: "old" });
    hung.socket.pause();
    for (let times = 0; times < 12; times += 1) say("x".repeat(1024 * 1024));
    await sleep(200);
    const back = await get(guarded.mcpUrl, session);
    isGood = false;
    await sleep(1500);
    say("one");
    await until(() => back.said.includes("one"));
    assert.equal(back.isOver, false);
  });

  for (const version of [older, primed]) {
    test(`T1, T3: has in ${version} a stream that is gone on with at its server, although the connection on which it came for it hangs`, async () => {
      const directory = createMemoryDirectory();
      const asked: unknown[] = [];
      const before = server.answer;
      server.answer = (one) => {
        if (one.method === "GET") asked.push(one.request.headers["last-event-id"]);
        return before(one);
      };
      const first = await startTestRouter(control, { directory });
      const session = await begin(first.mcpUrl, version);
      const own = await get(first.mcpUrl, session);
      const params = { level: "error", data: "one" };
      streams[0]?.response.write(`id: e1\ndata: ${JSON.stringify({ jsonrpc: "2.0", method: "notifications/message", params })}\n\n`);
      await hears(own, "one");
      await first.close(0);
      const second = await startTestRouter(control, { directory });
      closings.push(() => second.close(0));
      await until(() => streams.every(({ response }) => response.destroyed));
      const back = { ...session, "last-event-id": own.ids.at(-1) ?? "" };
      const resumed = await get(second.mcpUrl, back);
      assert.deepEqual([resumed.status, asked.at(-1)], [200, "e1"]);
      if (version === primed) {
        await until(() => resumed.ids.length > 0);
        assert.deepEqual(resumed.ids, own.ids.slice(-1));
      }
      resumed.socket.pause();
      const again = await get(second.mcpUrl, version === primed ? back : session);
      assert.equal(again.status, 200);
      const third = await get(second.mcpUrl, version === primed ? back : session);
      assert.deepEqual([third.status, third.retryAfter], [409, "1"]);
      if (version === older) await until(() => again.said.includes("notifications/tools/list_changed"));
      await sayUntil(again, "two");
      resumed.socket.resume();
      await until(() => resumed.isOver);
      assert.deepEqual(resumed.said, []);
    });
  }
});
