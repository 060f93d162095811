import assert from "node:assert/strict";
import { test } from "node:test";
import { publishFenced } from "../src/append.ts";
import { BusError } from "../src/index.ts";
import type { LogPort, PublishOutcome } from "../src/log-port.ts";
import { encodeEvent, type Outgoing, type RawMessage } from "../src/message.ts";
import { note } from "./behaviour/world.ts";

/** What no server does at a test's wish: a store that answers by script, on a clock of its own. */
function scripted(answers: readonly PublishOutcome[], last: (published: number) => RawMessage | null) {
  let nowMs = 0;
  let published = 0;
  const log: LogPort = {
    nowMs: () => nowMs,
    sleep: async (ms) => {
      nowMs += ms;
    },
    publish: async () => {
      const answer = answers[Math.min(published, answers.length - 1)];
      published += 1;
      assert.ok(answer);
      return answer;
    },
    lastOf: async () => last(published),
    at: async () => null,
  };
  return { log, published: () => published };
}

const outgoing = (expectedSeq: number): Outgoing => encodeEvent(note("pager", 1), { expectedSeq });
const other = (seq: number): RawMessage => ({ ...encodeEvent(note("pager", 2)), stream: "AUDIT", seq, timeMs: 0 });
const wrong = { kind: "wrong_sequence" } as const;

test("a refusal while a rival is on its way, and the sequence stands still, is no loss: when the rival came to nothing, the next try wins", async () => {
  const { log, published } = scripted([wrong, wrong, { kind: "stored", seq: 8, duplicate: false }], () => other(7));
  assert.deepEqual(await publishFenced(log, outgoing(7), 5000), { outcome: "won", seq: 8 });
  assert.equal(published(), 3);
});

test("when the rival arrived, it is lost to the rival", async () => {
  const { log, published } = scripted([wrong], (tries) => (tries === 1 ? null : other(3)));
  const outcome = await publishFenced(log, outgoing(0), 5000);
  assert.ok(outcome.outcome === "lost" && outcome.last?.seq === 3);
  assert.equal(published(), 2);
});

test("a rival that stays on its way for ever ends in a time-out that says that nothing was stored", async () => {
  const { log, published } = scripted([wrong], () => other(7));
  await assert.rejects(
    publishFenced(log, outgoing(7), 5000),
    (error) => error instanceof BusError && error.code === "unreachable" && error.retriable,
  );
  assert.ok(published() > 5 && published() < 50);
});

test("while the log cannot say what stands there, as in an election, nobody has lost: it is asked again, and then known", async () => {
  const noLeader = () => {
    throw new BusError("unreachable", "no leader", { retriable: true });
  };
  const rival = scripted([wrong], (tries) => (tries < 3 ? noLeader() : other(3)));
  const lost = await publishFenced(rival.log, outgoing(0), 5000);
  assert.ok(lost.outcome === "lost" && lost.last?.seq === 3);

  const duplicate = { kind: "stored", seq: 8, duplicate: true } as const;
  const foreign = scripted([duplicate], (tries) => (tries < 2 ? noLeader() : other(8)));
  assert.equal((await publishFenced(foreign.log, outgoing(7), 5000)).outcome, "lost");

  const message = outgoing(7);
  const unknown = { kind: "unknown", sent: true, cause: new Error("no answer") } as const;
  const own = scripted([unknown, wrong], (tries) => (tries < 3 ? noLeader() : { ...message, seq: 8, timeMs: 0 }));
  assert.deepEqual(await publishFenced(own.log, message, 5000), { outcome: "won", seq: 8 });
});

test("a log that cannot say it for the whole time ends in a time-out, which says so where an earlier try may have stored it", async () => {
  const noLeader = () => {
    throw new BusError("unreachable", "no leader", { retriable: true });
  };
  const coded = (code: string) => (error: unknown) => error instanceof BusError && error.code === code && error.retriable;
  await assert.rejects(publishFenced(scripted([wrong], noLeader).log, outgoing(7), 5000), coded("unreachable"));
  const unknown = { kind: "unknown", sent: true, cause: new Error("no answer") } as const;
  await assert.rejects(publishFenced(scripted([unknown, wrong], noLeader).log, outgoing(7), 5000), coded("timeout"));
});

test("an outcome that stays unknown ends in a time-out that says so, after a bounded number of tries", async () => {
  const { log, published } = scripted([{ kind: "unknown", sent: true, cause: new Error("no answer") }], () => other(7));
  await assert.rejects(
    publishFenced(log, outgoing(7), 5000),
    (error) => error instanceof BusError && error.code === "timeout" && /not known/.test(error.message),
  );
  assert.ok(published() > 5 && published() < 50);
});
