import assert from "node:assert/strict";
import { once } from "node:events";
import { Writable } from "node:stream";
import { test } from "node:test";
import { setImmediate as turnOver } from "node:timers/promises";
import { writeTogether } from "../src/write-together.ts";

function peer(name: string, went: string[]): Writable {
  return new Writable({
    decodeStrings: false,
    write(chunk: string, _encoding, done) {
      went.push(`${name} ${chunk}`);
      done();
    },
  });
}

test("what is written in one turn of the event loop goes out at its end, in order, and is counted until then", async () => {
  const went: string[] = [];
  const [a, b] = [peer("a", went), peer("b", went)];
  for (const [socket, text] of [
    [a, "1"],
    [b, "2"],
    [a, "3"],
  ] as const) {
    writeTogether(socket);
    socket.write(text);
  }
  assert.deepEqual(went, []);
  assert.equal(a.writableLength, 2);
  await turnOver();
  assert.deepEqual(went, ["a 1", "a 3", "b 2"]);
  assert.equal(a.writableLength, 0);
  assert.equal(a.writableCorked, 0);

  writeTogether(b);
  b.write("4");
  await turnOver();
  assert.deepEqual(went.slice(3), ["b 4"]);
});

test("an end sends what waits at once, a connection that is destroyed drops it, and neither holds up the others", async () => {
  const went: string[] = [];
  const [ended, gone, other] = [peer("ended", went), peer("gone", went), peer("other", went)];
  for (const socket of [ended, gone, other]) {
    writeTogether(socket);
    socket.write("1");
  }
  const finished = once(ended, "finish");
  ended.end("2");
  gone.destroy();
  await finished;
  assert.deepEqual(went.slice(0, 2), ["ended 1", "ended 2"]);
  await turnOver();
  assert.deepEqual(went.slice(2), ["other 1"]);
});
