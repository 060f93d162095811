import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "@mcp-failover/testkit";
import type { SoakWorld } from "./world.ts";

/** Something that must move nothing (issue "Detect in a second", what it must show, line 3). */
export interface SoakCase {
  readonly name: string;
  readonly what: string;
  /** The least time in which it can show anything; default none. */
  readonly durationMsMin?: number;
  /** What is done, at which share of the case's time. The last steps undo it. */
  steps(world: SoakWorld): readonly Step[];
  /** What must have come about at least so often: where nothing was done, that nothing moved shows nothing. */
  readonly proof: readonly { readonly deed: RegExp; readonly times: number }[];
}
interface Step {
  readonly at: number;
  readonly what: string;
  act(): Promise<void>;
}

const step = (at: number, what: string, act: () => Promise<void>): Step => ({ at, what, act });
const probers = ["prober-1", "prober-2", "prober-3"] as const;
const stallMs = 1000;
const jumpMs = 60_000;
const jumped = Math.round(jumpMs / 1000);
/** Those that decide, or whose word decides: each has its clock set forward by itself, as a machine with a bad clock has. */
const clocks = ["prober-1", "failover-controller-1", "router-1", "breaker-state-1"] as const;

export const cases: readonly SoakCase[] = [
  {
    name: "errors",
    what: "2 % of all answers of both endpoints are errors, at random, probes' too",
    steps: (world) => [step(0, "2 % errors", () => world.setErrorShare(0.02)), step(0.97, "no errors", () => world.setErrorShare(0))],
    proof: [{ deed: /^an endpoint answered with an error$/, times: 1 }],
  },
  {
    name: "stall",
    what: "the active endpoint stands still for 1 second (SIGSTOP), once at the begin and once in the middle",
    steps: (world) =>
      [0.05, 0.5].map((at) =>
        step(at, "stall", async () => {
          const pid = await world.primaryPid();
          process.kill(pid, "SIGSTOP");
          try {
            const [answers] = await Promise.all([world.primaryAnswers(stallMs * 0.8), sleep(stallMs)]);
            if (!answers) world.note("the active endpoint stood still");
          } finally {
            process.kill(pid, "SIGCONT");
          }
        }),
      ),
    proof: [{ deed: /^the active endpoint stood still$/, times: 2 }],
  },
  {
    name: "liar",
    what: "one prober of three says that the active endpoint refuses every probe; each of the three lies for a third of the time",
    // Only the owner of an endpoint probes it unasked, every 5 s: each has to lie for longer.
    durationMsMin: 24_000,
    steps: (world) => [
      ...probers.map((prober, index) =>
        step(0.32 * index, `${prober} lies`, async () => {
          for (const other of probers) await world.afflict(other, other === prober ? { refuse: [world.ports[0]] } : {});
        }),
      ),
      step(0.96, "nobody lies", () => world.afflict("prober-3", {})),
    ],
    proof: [
      ...probers.map((prober) => ({ deed: new RegExp(`^${prober} begins to lie$`), times: 1 })),
      { deed: /^prober-\d was refused a connection$/, times: 1 },
    ],
  },
  {
    name: "cut_off",
    what: "a prober reaches no endpoint any more, and for the second half not even NATS",
    steps: (world) => [
      step(0, "prober-2 reaches no endpoint", () => world.afflict("prober-2", { silence: world.ports })),
      step(0.48, "prober-2 reaches nothing", () => world.afflict("prober-2", { silence: "all" })),
      step(0.96, "prober-2 is back", () => world.afflict("prober-2", {})),
    ],
    // It owns no endpoint for sure, so that it may have to connect to none; that it had a connection to NATS is sure.
    proof: [
      { deed: /^prober-2 reaches no endpoint$/, times: 1 },
      { deed: /^prober-2 reaches nothing, and lost [1-9]\d* connections$/, times: 1 },
    ],
  },
  {
    name: "nats",
    what: "nats-server is killed and started again, twice",
    steps: (world) =>
      [0.05, 0.55].map((at) =>
        step(at, "NATS is killed", async () => {
          const before = await natsStarts(world);
          await world.stack.killProcess("nats");
          await eventually(async () => (await natsStarts(world)) > before, { withinMs: 30_000, everyMs: 100, what: "NATS runs again" });
          world.note("NATS was started again");
        }),
      ),
    proof: [{ deed: /^NATS was started again$/, times: 2 }],
  },
  {
    name: "clock",
    what: `a clock jumps by 60 s: that of ${clocks.join(", ")}, one after the other, and then all back`,
    steps: (world) => [
      ...clocks.map((instance, index) =>
        step(0.02 + 0.17 * index, `${instance} is 60 s ahead`, () => world.afflict(instance, { clockMs: jumpMs })),
      ),
      step(0.75, "all clocks are right again", async () => {
        for (const instance of clocks) await world.afflict(instance, {});
      }),
    ],
    proof: clocks.map((instance) => ({ deed: new RegExp(`^${instance} is ${jumped} s ahead$`), times: 1 })),
  },
];

/** How often the launcher started NATS again; it is asked over NATS. */
async function natsStarts({ stack }: SoakWorld): Promise<number> {
  const nats = (await stack.processes()).find(({ name }) => name === "nats");
  if (nats === undefined) throw new Error("the stack has no process called nats");
  return nats.restarts;
}
