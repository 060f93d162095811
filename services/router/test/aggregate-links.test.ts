import assert from "node:assert/strict";
import { test } from "node:test";
import type { InnerSession } from "../src/aggregate/inner-session.ts";
import { Link } from "../src/aggregate/links.ts";

/** A link whose one upstream has begun its session and takes or refuses what it is asked. */
function played() {
  const asked: string[] = [];
  const state = { fails: false };
  const inner = {
    begun: true,
    request: ({ method, params }: { method: string; params: { uri: string } }) => {
      asked.push(`${method} ${params.uri}`);
      return state.fails ? Promise.reject(new Error("connection reset")) : Promise.resolve();
    },
  } as unknown as InnerSession;
  class PlayedLink extends Link {
    override with(): InnerSession {
      return inner;
    }
  }
  const unused = undefined as never;
  return { link: new PlayedLink(unused, {}, unused, "k"), asked, state };
}

test("a subscription that could not be asked for is asked for again, by whoever listens next", async () => {
  const { link, asked, state } = played();
  state.fails = true;
  await assert.rejects(link.subscribe("u", "note://one", 1), /reset/);
  state.fails = false;
  await link.subscribe("u", "note://one", 1);
  assert.deepEqual(asked, ["resources/subscribe note://one", "resources/subscribe note://one"]);
});

test("the first listener of a resource subscribes to it, the last one ends that", async () => {
  const { link, asked } = played();
  for (const by of [1, 1, -1, -1, 1] as const) await link.subscribe("u", "note://one", by);
  assert.deepEqual(asked, ["resources/subscribe note://one", "resources/unsubscribe note://one", "resources/subscribe note://one"]);
});
