import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Msg, headers as makeHeaders, type NatsConnection } from "nats";
import type { Stored } from "../src/index.ts";
import { follow, type NatsReader, read } from "../src/nats/follow.ts";
import { until } from "./behaviour/world.ts";

const startMs = 1_700_000_000_000;

/** A replicated stream of ten messages, a second apart; the first consumers are on copies that have only some of them. */
function laggingStream(copies: readonly number[]) {
  const lastSeq = 10;
  const made: { at: number; end: number }[] = [];
  const listeners = new Map<string, (error: null, message: Msg) => void>();
  const send = (replyTo: string, message: object): void => {
    const inbox = replyTo.slice(0, replyTo.lastIndexOf("."));
    queueMicrotask(() => listeners.get(`${inbox}.*`)?.(null, message as Msg));
  };
  const nc = {
    subscribe(subject: string, { callback }: { callback: (error: null, message: Msg) => void }) {
      listeners.set(subject, callback);
      return { unsubscribe: () => listeners.delete(subject) };
    },
    publish(subject: string, body: string | undefined, { reply }: { reply: string }) {
      const consumer = made.at(-1);
      if (!subject.includes("CONSUMER.MSG.NEXT") || consumer === undefined) return;
      for (let delivery = 1; consumer.at <= consumer.end; consumer.at += 1, delivery += 1) {
        const data = new Uint8Array();
        const token = `$JS.ACK.AUDIT.c.1.${consumer.at}.${delivery}.${startMs + consumer.at * 1000}000000.0`;
        send(reply, { subject: "notify.sent.pager", reply: token, data });
      }
      if (body?.includes("no_wait")) send(reply, { subject: reply, headers: makeHeaders(404, "No Messages"), data: new Uint8Array() });
    },
  } as unknown as NatsConnection;
  const link = {
    current: nc,
    connected: true,
    closed: false,
    client: null,
    apiPrefix: "$JS.API",
    lags: new Set(),
    reach: async () => nc,
    onStatus: () => () => undefined,
    changed: async () => undefined,
    sleep: () => new Promise((resolve) => setTimeout(resolve, 1)),
    async request(subject: string, body: Uint8Array) {
      assert.match(subject, /CONSUMER\.CREATE/);
      const { config } = JSON.parse(new TextDecoder().decode(body)) as { config: { opt_start_seq?: number; opt_start_time?: string } };
      const fromTime = config.opt_start_time === undefined ? 1 : Math.ceil((Date.parse(config.opt_start_time) - startMs) / 1000);
      made.push({ at: config.opt_start_seq ?? fromTime, end: copies[made.length] ?? lastSeq });
      return { data: new TextEncoder().encode("{}") };
    },
  };
  const log = {
    streamInfo: async () => ({ created: "then", config: { num_replicas: 3 }, state: { first_seq: 1, last_seq: lastSeq } }),
    at: async (_: string, seq: number) => ({ seq, timeMs: startMs + seq * 1000, headers: {} }),
    // Of the leader.
    lastOf: async () => ({ seq: lastSeq, timeMs: startMs + lastSeq * 1000 }),
  };
  const reader = { link, log, quarantine: { look: (raw: unknown) => raw }, claims: { collect: (stored: unknown) => stored } };
  return { reader: { ...reader, say: { warn: () => undefined, debug: () => undefined } } as unknown as NatsReader, made };
}
const all = Array.from({ length: 10 }, (_, index) => index + 1);

describe("a replicated stream, of which the server that is asked has not all yet", () => {
  test("a read goes on until it has what the leader has", async () => {
    const { reader, made } = laggingStream([6, 6, 8]);
    const seqs: number[] = [];
    for await (const { seq } of read(reader, "AUDIT", {})) seqs.push(seq);
    assert.deepEqual(seqs, all);
    assert.equal(made.length, 4);
  });

  test("following is caught up only when it has handed over what the leader has", async (t) => {
    const { reader } = laggingStream([6, 8]);
    const seen: (number | "end")[] = [];
    const options = { from: { seq: 1 }, onCaughtUp: () => seen.push("end") };
    const following = follow(reader, "AUDIT", options, ({ seq }: Stored) => void seen.push(seq));
    t.after(() => following.stop());
    await until(() => seen.includes("end"), "it is caught up");
    await following.stop();
    assert.deepEqual(seen, [...all, "end"]);
  });

  test("following from a time after the last message is caught up at once, with nothing handed over", async (t) => {
    const { reader, made } = laggingStream([]);
    const seen: (number | "end")[] = [];
    const options = { from: { timeMs: startMs + 11_000 }, onCaughtUp: () => seen.push("end") };
    const following = follow(reader, "AUDIT", options, ({ seq }: Stored) => void seen.push(seq));
    t.after(() => following.stop());
    await until(() => seen.includes("end"), "it is caught up");
    await following.stop();
    assert.deepEqual([seen, made.length], [["end"], 1]);
  });
});
