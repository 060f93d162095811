import assert from "node:assert/strict";
import { test } from "node:test";
import type { Attempt, AttemptResult, CallControl } from "../src/control/port.ts";
import { type Lane, runHedged } from "../src/hedge.ts";

const failed: AttemptResult = { outcome: "hard", code: "reset", executed: "unknown", message: "reset" };
const toolFailed: AttemptResult = { outcome: "ok", httpStatus: 200, toolError: true };
const cancelled: AttemptResult = { outcome: "cancelled" };
const answered: AttemptResult = { outcome: "ok", httpStatus: 200, toolError: false };

/** Two attempts that are out at once: how each ends is the test's to say. */
function race() {
  const told: string[] = [];
  const over: string[] = [];
  const ends = new Map<string, (result: AttemptResult) => void>();
  const lanes = new Map<string, Lane>();
  const attempt = (name: string): Attempt => ({
    endpoint: { name } as Attempt["endpoint"],
    connectMs: 1000,
    givenUp: null,
    whenLate: (listener) => listener(),
    answering: () => undefined,
    done(result) {
      told.push(`${name} ${result.outcome}`);
      return { retry: false };
    },
  });
  const ended = runHedged<AttemptResult>(attempt("first"), {
    call: { hedge: () => attempt("second") } as Partial<CallControl> as CallControl,
    run({ endpoint: { name } }, lane) {
      lanes.set(name, lane);
      return new Promise((resolve) => ends.set(name, resolve));
    },
    toldOf: (ran) => ran,
    isFinal: ({ outcome }) => outcome === "ok",
    onOver: ({ endpoint: { name } }, { outcome }) => over.push(`${name} ${outcome}`),
    onTrouble: (error) => assert.fail(String(error)),
  });
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  return {
    told,
    over,
    ended,
    settled,
    takes: (name: string, what: "answer" | "error" | "before_answer") => lanes.get(name)?.takes(what),
    end: (name: string, result: AttemptResult) => ends.get(name)?.(result),
  };
}

test("H3: once the first has failed, an error of the second one is the answer, and what it says before is passed on", async () => {
  const { told, over, ended, settled, takes, end } = race();
  await settled();
  end("first", failed);
  await settled();
  assert.equal(takes("second", "before_answer"), true);
  assert.equal(takes("second", "error"), true);
  end("second", toolFailed);
  const { attempt, ran } = await ended;
  assert.equal(attempt.endpoint.name, "second");
  assert.deepEqual(ran, toolFailed);
  assert.deepEqual(told, ["first hard"], "the one that failed is told once, and the other one by whoever ends the call");
  assert.deepEqual(over, ["first hard"]);
});

test("H2, H3: an error of the second one is kept back while the first goes on, and neither is told twice", async () => {
  const { told, over, ended, settled, takes, end } = race();
  await settled();
  assert.equal(takes("second", "error"), false);
  end("second", cancelled);
  await settled();
  assert.equal(takes("first", "answer"), true);
  end("first", answered);
  assert.equal((await ended).attempt.endpoint.name, "first");
  assert.deepEqual(told, ["second cancelled"]);
  assert.deepEqual(over, ["second cancelled"]);
});
