import { NoResponderError } from "@mcp-failover/bus";
import type { SimProcess } from "./clock.ts";
import type { EventQueue } from "./event-queue.ts";
import { simBus } from "./nats/bus.ts";
import type { SimLink } from "./nats/link.ts";
import type { Line } from "./nats/network.ts";
import type { SimServer } from "./nats/server.ts";
import type { Node } from "./node.ts";
import type { Upstreams } from "./upstreams.ts";
import type { Fault, Happening, ProcessName, Schedule } from "./world-types.ts";

/** What faults act on. */
export interface Afflicted {
  readonly schedule: Schedule;
  readonly queue: EventQueue;
  readonly server: SimServer;
  readonly upstreams: Upstreams;
  readonly nodes: ReadonlyMap<ProcessName, Node>;
  count(name: string): void;
  happened(what: Happening["what"], process: ProcessName | null, fault: number | null, text: string): void;
  lost(router: ProcessName): void;
  operator(): { link: SimLink; process: SimProcess };
}

const resetRetryMs = 5000;
const resetTriesMax = 60;

type Of<K extends Fault["kind"]> = Extract<Fault, { kind: K }>;

/** Begins faults when they are due, and ends them; says which are active. */
export class FaultPlan {
  readonly #world: Afflicted;
  readonly #active = new Set<Fault>();

  constructor(world: Afflicted) {
    this.#world = world;
  }

  get any(): boolean {
    return this.#active.size > 0;
  }

  touches(name: string): boolean {
    for (const fault of this.#active) {
      if ("process" in fault && (fault.process === name || ("peer" in fault && fault.peer === name))) return true;
      if (fault.kind === "endpoint" && fault.endpoint === name) return true;
      if (fault.kind === "nats_restart" && name === "nats") return true;
      if (fault.kind === "prober_clocks" && this.#world.nodes.get(name)?.service === "prober") return true;
    }
    return false;
  }

  /** What a prober that lies says of an endpoint; null: it does not lie. */
  lie(prober: ProcessName, key: string, isGood: boolean): "healthy" | "unhealthy" | null {
    for (const fault of this.#active) {
      if (fault.kind !== "liar" || fault.process !== prober || (fault.endpoint !== "every" && fault.endpoint !== key)) continue;
      if (fault.says === "opposite") return isGood ? "unhealthy" : "healthy";
      return fault.says;
    }
    return null;
  }

  begin(fault: Fault): void {
    const end = this.#afflict(fault);
    if (end === null) {
      this.#world.happened("fault_skipped", "process" in fault ? fault.process : null, fault.id, fault.kind);
      return;
    }
    this.#world.count(`fault:${nameOf(fault)}`);
    this.#world.happened("fault_began", "process" in fault ? fault.process : null, fault.id, JSON.stringify(fault));
    if (!("forMs" in fault) || fault.kind === "command") return;
    this.#active.add(fault);
    this.#world.queue.after(fault.forMs, null, () => {
      this.#active.delete(fault);
      end();
      this.#world.happened("fault_ended", "process" in fault ? fault.process : null, fault.id, nameOf(fault));
    });
  }

  /** Does it, and says how to undo it; null: it cannot be done now. */
  #afflict(fault: Fault): (() => void) | null {
    switch (fault.kind) {
      case "endpoint":
        this.#world.upstreams.begin(fault);
        return () => this.#world.upstreams.end(fault);
      case "partition":
        return this.#partition(fault);
      case "crash":
        return this.#crash(fault);
      case "pause":
        return this.#pause(fault);
      case "clock_jump":
        (fault.process === "nats" ? this.#world.server.host : this.#node(fault.process)?.host)?.jump(fault.byMs);
        return () => undefined;
      case "prober_clocks": {
        const all = [...this.#world.nodes.values()].filter(({ service }) => service === "prober");
        const jump = (byMs: number): void => {
          for (const { host } of all) host.jump(byMs);
        };
        jump(fault.byMs);
        return () => jump(-fault.byMs);
      }
      case "clock_drift": {
        const host = this.#node(fault.process)?.host;
        if (host === undefined || host.rate !== 1) return null;
        host.setRate(1 + fault.ratio);
        return () => host.setRate(1);
      }
      case "nats_restart": {
        const { server } = this.#world;
        if (!server.up) return null;
        server.goDown();
        return () => server.comeUp({ forgetsIds: fault.forgetsIds });
      }
      case "messages":
        return this.#messages(fault);
      case "liar":
        return () => undefined;
      case "command":
        this.#command(fault);
        return () => undefined;
    }
  }

  #node(name: ProcessName): Node | null {
    return this.#world.nodes.get(name) ?? null;
  }

  #partition({ process, peer, direction }: Of<"partition">): (() => void) | null {
    const node = this.#node(process);
    if (node === null) return null;
    const { line } = node;
    const by = (step: 1 | -1): void => {
      if (peer !== "nats") this.#world.upstreams.cut(process, peer === "everything" ? "every" : peer, direction, step);
      if (peer !== "nats" && peer !== "everything") return;
      if (direction !== "in") line.outCuts += step;
      if (direction !== "out") line.inCuts += step;
      if (step === 1) node.life?.link.lineCut();
      else node.life?.link.lineHealed();
    };
    by(1);
    return () => by(-1);
  }

  #crash({ process, orderly }: Of<"crash">): (() => void) | null {
    const node = this.#node(process);
    if (node === null || !node.alive) return null;
    const gone = (): void => {
      this.#world.happened("crashed", process, null, orderly ? "stopped" : "killed");
      if (node.service === "router") this.#world.lost(process);
    };
    const { life } = node;
    if (orderly) node.stop(gone);
    else {
      node.kill();
      gone();
    }
    return () => {
      if (node.life === life && node.alive) {
        node.kill();
        gone();
      }
      if (life !== null) this.#world.upstreams.forget(life.process);
      node.start();
    };
  }

  #pause({ process, forMs }: Of<"pause">): (() => void) | null {
    const life = this.#node(process)?.life;
    if (life == null || life.process.pausedUntilMs > this.#world.queue.nowMs) return null;
    life.process.pausedUntilMs = this.#world.queue.nowMs + forMs;
    this.#world.happened("paused", process, null, "");
    return () => this.#world.happened("resumed", process, null, "");
  }

  #messages({ process, what, share, delayMs }: Of<"messages">): (() => void) | null {
    const line = this.#node(process)?.line;
    if (line === undefined) return null;
    const set = (on: boolean): void => setFault(line, what, on ? share : 0, delayMs);
    set(true);
    return () => set(false);
  }

  #command(fault: Of<"command">): void {
    const { seed } = this.#world.schedule;
    const { process, link } = this.#world.operator();
    const bus = simBus(link, () => undefined);
    const base = { commandId: `command-${seed}-${fault.id}`, by: { kind: "operator" as const, id: "ada" }, reason: "a drill" };
    const ask = (): Promise<unknown> => {
      switch (fault.command) {
        case "failover":
          return bus.request(
            "command.failover",
            { ...base, upstream: fault.upstream, to: fault.to, force: fault.force, dryRun: false },
            { timeoutMs: 15_000 },
          );
        case "failback":
          return bus.request(
            "command.failback",
            { ...base, upstream: fault.upstream, force: fault.force, dryRun: false },
            { timeoutMs: 15_000 },
          );
        case "breaker":
          return bus.request("command.breaker", { ...base, upstream: fault.upstream, endpoint: fault.to, action: "force_open" });
        case "hold":
          return bus.request("command.hold", { ...base, upstream: fault.upstream, forMs: fault.forMs });
        case "release":
          return bus.request("command.release", { ...base, upstream: fault.upstream });
        case "rollback":
          return bus.request("command.rollback", { ...base, ...scopeOf(seed, fault.id), force: fault.force });
        case "recover":
          return bus.request("command.recover", { ...base, ...scopeOf(seed, fault.id), percent: fault.force ? 100 : null });
      }
    };
    const askOnce = (left: number): void => {
      ask().then(
        (reply) => {
          const { ok, error } = reply as { ok: boolean; error?: { code: string } };
          this.#world.count(`command:${fault.command}:${ok ? "done" : (error?.code ?? "refused")}`);
          this.#world.happened(ok ? "command_answered" : "command_refused", "operator", fault.id, ok ? "" : (error?.code ?? ""));
          if (left <= 1) link.close();
        },
        (error: unknown) => {
          this.#world.count(`command:${fault.command}:${error instanceof NoResponderError ? "no_responders" : "no_answer"}`);
          if (left <= 1) link.close();
        },
      );
    };
    for (let time = 0; time < fault.times; time += 1) {
      this.#world.queue.after(10 + time * 300, process, () => askOnce(fault.times - time));
    }
    if (fault.command === "breaker") this.#resetAfter(fault);
  }

  /** An operator who has forced a breaker open resets it, and asks again until somebody obeys. */
  #resetAfter({ id, upstream, to, forMs }: Of<"command">): void {
    const { process, link } = this.#world.operator();
    const bus = simBus(link, () => undefined);
    const by = { kind: "operator" as const, id: "ada" };
    const ask = (left: number): void => {
      const commandId = `reset-${this.#world.schedule.seed}-${id}`;
      bus.request("command.breaker", { commandId, by, reason: "the drill is over", upstream, endpoint: to, action: "reset" }).then(
        (reply) => {
          if ((reply as { ok: boolean }).ok || left <= 1) link.close();
          else setTimeout(() => ask(left - 1), resetRetryMs);
        },
        () => {
          if (left <= 1) link.close();
          else setTimeout(() => ask(left - 1), resetRetryMs);
        },
      );
    };
    this.#world.queue.after(Math.max(resetRetryMs, forMs ?? 0), process, () => ask(resetTriesMax));
  }
}

/** Most orders of a run are for one scope, so that it is rolled back and recovered. */
function scopeOf(seed: number, id: number): { scope: "tool" | "agent" | "system"; name: string } {
  const scopes = [
    { scope: "tool", name: "look" },
    { scope: "agent", name: "clerk" },
    { scope: "system", name: "system" },
    { scope: "tool", name: "write" },
  ] as const;
  return scopes[(id % 4 === 0 ? id : seed) % scopes.length] ?? scopes[0];
}

function setFault(line: Line, what: Of<"messages">["what"], share: number, ms: number): void {
  switch (what) {
    case "lose_acks":
      line.loseAcks = share;
      return;
    case "lose_publishes":
      line.losePublishes = share;
      return;
    case "lose_core":
      line.loseCore = share;
      return;
    case "duplicate_core":
      line.duplicateCore = share;
      return;
    case "reorder_core":
      line.reorderCore = { share, ms };
      return;
    case "delay":
      line.delay = { share, ms };
      return;
  }
}

function nameOf(fault: Fault): string {
  switch (fault.kind) {
    case "endpoint":
      return `endpoint:${fault.mode}${fault.meets === "all" ? "" : `:${fault.meets}`}${fault.periodMs === null ? "" : ":flapping"}`;
    case "partition":
      return `partition:${fault.peer === "nats" || fault.peer === "everything" ? fault.peer : "endpoint"}:${fault.direction}`;
    case "crash":
      return `crash:${fault.process.replace(/-\d+$/, "")}:${fault.orderly ? "orderly" : "killed"}`;
    case "pause":
      return `pause:${fault.process.replace(/-\d+$/, "")}`;
    case "messages":
      return `messages:${fault.what}`;
    case "liar":
      return `liar:${fault.says}`;
    case "prober_clocks":
      return `prober_clocks:${fault.byMs > 0 ? "ahead" : "behind"}`;
    case "command":
      return `command:${fault.command}`;
    default:
      return fault.kind;
  }
}
