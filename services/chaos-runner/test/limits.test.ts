import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Bus } from "@mcp-failover/bus";
import type { StatusView } from "@mcp-failover/contracts";
import { experimentPolicy } from "@mcp-failover/domain";
import { type StackDouble, until } from "./stack-double.ts";
import { codeOf, world } from "./world.ts";

const messageOf = (reply: Awaited<ReturnType<Awaited<ReturnType<typeof world>>["ask"]>>): string => (reply.ok ? "ok" : reply.error.message);

/** The standby is gone, and seen to be. */
async function loseStandby(stack: StackDouble): Promise<void> {
  stack.down.add("secondary");
  await until(
    () => stack.status().upstreams[0]!.endpoints[1]!.health,
    (health) => health === "unhealthy",
  );
}

describe("limits of an experiment", { concurrency: 3 }, () => {
  for (const { what, move } of [
    {
      what: "moves",
      move: (stack: StackDouble) => {
        stack.active = "secondary";
        stack.epoch += 1;
        void stack.decide(stack.epoch);
      },
    },
    // The status may lag behind the log.
    { what: "is decided to move, which no status shows yet,", move: (stack: StackDouble) => void stack.decide(stack.epoch + 1) },
    {
      what: "turns sick",
      move: (stack: StackDouble) => {
        stack.held = true;
        stack.noticeMs = 20;
        stack.down.add("primary");
      },
    },
  ]) {
    test(`an upstream that ${what} while the baseline is measured is not experimented on: nothing is touched, nothing on record`, async (t) => {
      const { stack, ask } = await world(t);
      let calls = 0;
      stack.answer = () => {
        calls += 1;
        if (calls === 5) move(stack);
        return "stock: 7";
      };
      const reply = await ask({});
      assert.equal(codeOf(reply), "not_steady", messageOf(reply));
      assert.deepEqual(stack.asked, []);
      assert.deepEqual(await stack.said(), []);
    });
  }

  test("a status out of a backup is no steady state", async (t) => {
    const { stack, ask } = await world(t);
    stack.shown = { backupUpToSeq: 3 };
    const reply = await ask({});
    assert.equal(codeOf(reply), "not_steady");
    assert.match(messageOf(reply), /shows a backup up to #3/);
  });

  test("one that moves after the experiment is on record, before its fault, ends as failed, with nothing injected", async (t) => {
    const { stack, ask } = await world(t, { onFence: ({ type }) => (type === "chaos.started" ? stack.decide(1) : null) });
    const reply = await ask({});
    assert.ok(reply.ok, messageOf(reply));
    const { success, error } = reply.result as { success: boolean; error: string };
    assert.equal(success, false);
    assert.match(
      error,
      /^the check completed failed: nothing was injected: shop moved after primary had been chosen as its active endpoint/,
    );
    assert.deepEqual(stack.asked, []);
  });

  test("a runner whose lease somebody else got meanwhile injects nothing", async (t) => {
    const takeLease = async ({ type }: { type: string }, bus: Bus) => {
      if (type !== "chaos.started") return;
      const bucket = await bus.bucket("chaos-lease", { ttlMs: experimentPolicy.leaseMs, maxValueBytes: 1024 });
      await bucket.put("active", "another's");
    };
    const { stack, run } = await world(t, { onFence: takeLease });
    assert.match((await run({})).error ?? "", /: the runner is stopping, or lost its lease, before anything was injected$/);
    assert.deepEqual(stack.asked, []);
  });

  test("the last endpoint that lives is not killed, nor one that a hold keeps active; a standby is, and slowness is no death", async (t) => {
    const { stack, ask, run } = await world(t);
    await loseStandby(stack);
    const last = await ask({});
    assert.equal(codeOf(last), "blast_radius");
    assert.match(
      messageOf(last),
      /^without primary nothing would serve shop: .*secondary is unhealthy.*bring one back first, or order it with `force`/,
    );
    stack.down.clear();
    await until(
      () => stack.status().upstreams[0]!.endpoints[1]!.health,
      (health) => health === "healthy",
    );
    stack.shown = { hold: { by: "bob", reason: "a release", until: null } };
    const held = await ask({});
    assert.equal(codeOf(held), "blast_radius");
    assert.match(messageOf(held), /^shop is held at primary by bob \(a release\); release it first/);
    // Later than the router waits for any call (55 s).
    assert.equal(codeOf(await ask({ scenario: "slowResponse", options: { delayMs: 60_000 } })), "blast_radius");
    assert.deepEqual(stack.asked, []);
    assert.deepEqual(await stack.said(), []);
    await run({ options: { endpoint: "secondary" } });
    assert.deepEqual(stack.asked, ["kill shop-secondary 22000", "start shop-secondary"]);
    await run({ scenario: "slowResponse", options: { delayMs: 300, durationMs: 1000 } });
    assert.deepEqual(stack.asked.slice(-2), ["slow shop-primary 300 3000", "clear shop-primary"]);
  });

  for (const { what, more, expected } of [
    {
      what: "automatic moves are switched off",
      more: { shop: { failover: { automatic: false } } },
      expected: /^shop is not moved by itself: automatic moves are switched off; change that first, or order it with `force`/,
    },
    {
      what: "the other endpoint is in maintenance",
      more: {
        topology: {
          maintenance: [{ name: "disks", reason: "new ones", endpoints: ["shop/secondary"], daily: { at: "00:00", for_ms: 86_400_000 } }],
        },
      },
      expected: /^without primary nothing would serve shop: no other endpoint could \(secondary is in maintenance \(disks\)\)/,
    },
  ]) {
    test(`the active endpoint is not killed where it would not be left, though the other is healthy: ${what}`, async (t) => {
      const { stack, ask } = await world(t, more);
      const reply = await ask({});
      assert.equal(codeOf(reply), "blast_radius", messageOf(reply));
      assert.match(messageOf(reply), expected);
      assert.deepEqual(stack.asked, []);
    });
  }

  test("legacy implementations of every tool serve in the last endpoint's place; of some tools they do not", async (t) => {
    const legacy = { url: "http://127.0.0.1:3/stock" };
    const whole = await world(t, { tools: { stock: { read_only: true, legacy } } });
    await loseStandby(whole.stack);
    await whole.run({ options: { durationMs: 1000 } });
    assert.deepEqual(whole.stack.asked, ["kill shop-primary 3000", "start shop-primary"]);
    const part = await world(t, { tools: { write: {}, stock: { read_only: true, legacy } } });
    await loseStandby(part.stack);
    assert.equal(codeOf(await part.ask({})), "blast_radius");
  });

  test("force kills it all the same, what it overrode is on record, and it is put back once twenty calls in a row failed", async (t) => {
    const { stack, run } = await world(t);
    await loseStandby(stack);
    stack.shown = { hold: { by: "bob", reason: "a release", until: null } };
    let killedAtMs = 0;
    stack.answer = () => {
      if (stack.down.size < 2) return "stock: 7";
      killedAtMs ||= performance.now();
      throw new Error("nobody is there");
    };
    const result = run({ options: { force: true, durationMs: 60_000 } });
    await until(
      () => stack.asked.at(-1),
      (asked) => asked === "start shop-primary",
      30_000,
    );
    const downMs = performance.now() - killedAtMs;
    assert.ok(downMs < 10_000, `put back ${Math.round(downMs)} ms after the first failed call`);
    const { success, error, during } = (await result) as { success: boolean; error: string | null; during?: { failed: number } };
    assert.equal(success, false);
    assert.match(error ?? "", /^the check completed failed: it was given up: the last 20 calls failed \(the tool answered with isError\)$/);
    assert.ok((during?.failed ?? 0) >= 20);
    const [started] = await stack.said("chaos.started");
    assert.ok(started?.type === "chaos.started");
    assert.deepEqual(started.data.overrode, ["last_endpoint", "hold"]);
    assert.equal(started.data.options["force"], true);
    assert.equal(started.data.reason, "a game day");
  });

  test("an experiment of which nobody sees what it does is given up, and what a backup shows is not seen", async (t) => {
    const { stack, run } = await world(t);
    const result = run({ options: { durationMs: 60_000 } });
    await until(
      () => stack.down.size,
      (size) => size === 1,
    );
    stack.shown = { backupUpToSeq: 3 };
    const killedAtMs = performance.now();
    await until(
      () => stack.down.size,
      (size) => size === 0,
      30_000,
    );
    const downMs = performance.now() - killedAtMs;
    assert.ok(downMs >= experimentPolicy.abortAfterBlindMs - 1000, `${Math.round(downMs)} ms`);
    const { recoveryTime, error } = await result;
    assert.equal(recoveryTime, null);
    assert.match(error ?? "", /: it was given up: for 10 s nobody saw the status, so that other upstreams may be broken unseen$/);
  });

  test("an experiment is given up at once when an upstream that is not its target turns sick, and not for one that was sick before", async (t) => {
    const { stack, run } = await world(t);
    const other = (name: string, health: "healthy" | "unhealthy"): StatusView["upstreams"][number] => {
      const [shop] = stack.status().upstreams;
      return { ...shop!, name, active: "primary", endpoints: [{ ...shop!.endpoints[0]!, health }] };
    };
    stack.held = true;
    stack.shown = { others: [other("mail", "healthy"), other("wreck", "unhealthy")] };
    const result = run({ options: { durationMs: 60_000 } });
    await until(
      () => stack.down.size,
      (size) => size === 1,
    );
    stack.shown = { others: [other("mail", "unhealthy"), other("wreck", "unhealthy")] };
    await until(
      () => stack.down.size,
      (size) => size === 0,
    );
    assert.match(
      (await result).error ?? "",
      /: it was given up: mail, which is not its target, has no healthy active endpoint any more \(primary is unhealthy\)$/,
    );
  });
});
