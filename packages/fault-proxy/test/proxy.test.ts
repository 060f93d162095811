import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { delayLine } from "../src/delay-line.ts";
import { dial, echo, echoMs, endOf, freePort, listen, proxied, until } from "./sockets.ts";

test("without a fault an answer passes at once, and latency is added to each answer while a fault lasts", async (t) => {
  const port = await freePort();
  await listen(t, port, echo);
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  const socket = dial(t, proxy);
  await once(socket, "connect");
  assert.ok((await echoMs(socket)) < 100);
  proxy.setFault({ latencyMs: 200, ttlMs: 10_000 });
  const slowMs = await echoMs(socket);
  assert.ok(slowMs >= 195 && slowMs < 600, `took ${slowMs} ms`);
  proxy.clearFault();
  assert.ok((await echoMs(socket)) < 100);
});

test("P3: a fault ends by itself at its ttl, and what it still held back passes at once", async (t) => {
  const port = await freePort();
  await listen(t, port, echo);
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  const socket = dial(t, proxy);
  await once(socket, "connect");
  proxy.setFault({ latencyMs: 30_000, ttlMs: 300 });
  const tookMs = await echoMs(socket);
  assert.ok(tookMs >= 250 && tookMs < 1000, `took ${tookMs} ms`);
  assert.equal(proxy.view().fault, null);
  assert.ok((await echoMs(socket)) < 100);
});

test("a new fault replaces the old one with its lease, and the old lease does not end the new fault", async (t) => {
  const port = await freePort();
  await listen(t, port, echo);
  const proxy = await proxied(t, port);
  proxy.setFault({ latencyMs: 10, ttlMs: 100 });
  proxy.setFault({ latencyMs: 20, ttlMs: 5000 });
  await sleep(200);
  assert.equal(proxy.view().fault?.latencyMs, 20);
});

test("a fault of 0 ms changes nothing, and one that makes no sense is refused", async (t) => {
  const port = await freePort();
  await listen(t, port, echo);
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  proxy.setFault({ latencyMs: 0, ttlMs: 5000 });
  const socket = dial(t, proxy);
  await once(socket, "connect");
  assert.ok((await echoMs(socket)) < 100);
  assert.throws(() => proxy.setFault({ latencyMs: -1, ttlMs: 1000 }), RangeError);
  assert.throws(() => proxy.setFault({ latencyMs: Number.NaN, ttlMs: 1000 }), RangeError);
  assert.throws(() => proxy.setFault({ latencyMs: 1, ttlMs: 0 }), RangeError);
});

test("P2: while the upstream refuses, the proxy refuses too; it takes connections again once the upstream does", async (t) => {
  const port = await freePort();
  const proxy = await proxied(t, port);
  await sleep(100);
  assert.equal(await endOf(dial(t, proxy)), "ECONNREFUSED");
  const first = await listen(t, port, echo);
  await until(() => proxy.view().upstream === "accepting");
  const socket = dial(t, proxy);
  await once(socket, "connect");
  await echoMs(socket);
  const end = endOf(socket);
  const killedMs = performance.now();
  await first.kill();
  assert.equal(await end, "ECONNRESET", "an open connection sees the reset of its upstream");
  await until(() => proxy.view().upstream === "refusing");
  assert.ok(performance.now() - killedMs < 250);
  assert.equal(await endOf(dial(t, proxy)), "ECONNREFUSED");
  await listen(t, port, echo);
  await until(() => proxy.view().upstream === "accepting");
  const again = dial(t, proxy);
  await once(again, "connect");
  await echoMs(again);
});

test("P5: a client that has sent its last byte still gets the answer, and an end of the upstream reaches the client", async (t) => {
  const port = await freePort();
  await listen(t, port, (socket) => {
    socket.resume().on("end", () => {
      socket.write("answer after the end");
      socket.end();
    });
  });
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  proxy.setFault({ latencyMs: 50, ttlMs: 5000 });
  const socket = dial(t, proxy);
  socket.end("question");
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  assert.equal(Buffer.concat(chunks).toString(), "answer after the end");
});

test("P5: a reset by the client reaches the upstream", async (t) => {
  const port = await freePort();
  const ends: string[] = [];
  await listen(t, port, async (socket) => {
    ends.push(await endOf(socket));
  });
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  const socket = dial(t, proxy);
  socket.write("x");
  await until(() => proxy.view().connections === 1);
  await sleep(50);
  socket.resetAndDestroy();
  await until(() => proxy.view().connections === 0);
  await until(() => ends.includes("ECONNRESET"));
});

test("P1 and P4: megabytes pass unchanged while the latency changes, and a reader that stops stops the upstream", async (t) => {
  const port = await freePort();
  const total = 24 * 1024 * 1024;
  const sent = Buffer.alloc(total, "abcdefghijklmnopqrstuvwxyz0123456789");
  let written = 0;
  await listen(t, port, (socket) => {
    const write = (): void => {
      while (written < total) {
        const end = Math.min(written + 64 * 1024, total);
        const more = socket.write(sent.subarray(written, end));
        written = end;
        if (!more) {
          socket.once("drain", write);
          return;
        }
      }
      socket.end();
    };
    socket.once("data", write);
  });
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  const socket = dial(t, proxy);
  socket.pause();
  socket.write("go");
  await sleep(400);
  const stalledAt = written;
  assert.ok(stalledAt < total, "the kernel's and the proxy's buffers are full before the answer is whole");
  await sleep(200);
  assert.equal(written, stalledAt, "nothing more is taken while the reader stands still");
  const toggling = setInterval(() => proxy.setFault({ latencyMs: Math.round(performance.now()) % 20, ttlMs: 1000 }), 7);
  t.after(() => clearInterval(toggling));
  let received = 0;
  for await (const chunk of socket) {
    const bytes = chunk as Buffer;
    assert.ok(bytes.equals(sent.subarray(received, received + bytes.length)), `differs at ${received}`);
    received += bytes.length;
  }
  assert.equal(received, total);
});

test("P4: an upstream that reads no more stops the client that sends, and gets all of it later", async (t) => {
  const port = await freePort();
  const total = 24 * 1024 * 1024;
  let received = 0;
  const upstream = await listen(t, port, (socket) => {
    socket.pause();
    socket.on("data", (chunk: Buffer) => {
      received += chunk.length;
    });
  });
  const proxy = await proxied(t, port);
  await until(() => proxy.view().upstream === "accepting");
  const socket = dial(t, proxy);
  const part = Buffer.alloc(64 * 1024, "x");
  let written = 0;
  const write = (): void => {
    while (written < total) {
      written += part.length;
      if (socket.write(part)) continue;
      socket.once("drain", write);
      return;
    }
  };
  write();
  await sleep(400);
  const stalledAt = written;
  assert.ok(stalledAt < total, "the kernel's and the proxy's buffers are full before all is sent");
  await sleep(200);
  assert.equal(written, stalledAt, "nothing more is taken while the upstream stands still");
  for (const one of upstream.sockets) one.resume();
  await until(() => received === total, 20_000);
});

test("P1: whatever the latencies and pauses, a delay line hands over what it was given, in order, and its end last", () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.oneof(
          fc.record({ do: fc.constant("push" as const), bytes: fc.integer({ min: 1, max: 40 }) }),
          fc.record({ do: fc.constant("latency" as const), ms: fc.integer({ min: 0, max: 100 }) }),
          fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 0, max: 60 }) }),
          fc.record({ do: fc.constant("resume" as const) }),
        ),
        { maxLength: 60 },
      ),
      fc.integer({ min: 1, max: 5 }),
      (steps, sinkTakes) => {
        let nowMs = 0;
        let latencyMs = 0;
        let taken = 0;
        const out: number[] = [];
        let ended = 0;
        const line = delayLine({
          latencyMs: () => latencyMs,
          bytesMax: 64,
          nowMs: () => nowMs,
          onChunk: (chunk) => {
            assert.equal(ended, 0);
            out.push(...chunk);
            taken += 1;
            return taken % sinkTakes !== 0;
          },
          onEnd: () => {
            ended += 1;
          },
          onRoom: () => undefined,
        });
        const sent: number[] = [];
        for (const step of steps) {
          if (step.do === "push") {
            const chunk = Buffer.alloc(step.bytes, sent.length % 251);
            sent.push(...chunk);
            line.push(chunk);
          } else if (step.do === "latency") {
            latencyMs = step.ms;
            line.retime();
          } else if (step.do === "wait") nowMs += step.ms;
          else line.resume();
        }
        line.end();
        nowMs += 1000;
        for (let i = 0; i < 200 && ended === 0; i += 1) line.resume();
        line.destroy();
        assert.deepEqual(out, sent);
        assert.equal(ended, 1);
      },
    ),
    { numRuns: 300 },
  );
});
