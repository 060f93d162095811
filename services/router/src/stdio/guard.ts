import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { startOf } from "./process-start.ts";

/** A process beside the router that ends the router's children should the router be killed. It is started with the first child. */
export interface Guard {
  add(pid: number): void;
  remove(pid: number): void;
  /** Ends it, once there are no children any more. */
  stop(): void;
}

const againMs = 500;

export function createGuard(): Guard {
  const wards = new Map<number, string>();
  let guardian: ChildProcess | null = null;
  let stopped = false;
  const say = (what: object): void => {
    guardian?.stdin?.write(`${JSON.stringify(what)}\n`);
  };
  const launch = (): void => {
    if (stopped || guardian !== null || wards.size === 0) return;
    const started = spawn(process.execPath, [fileURLToPath(new URL("./guardian.ts", import.meta.url))], {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
      env: {},
    });
    guardian = started;
    // Its end is heard below; a pipe that breaks before says nothing more.
    started.stdin?.on("error", () => undefined);
    const over = (): void => {
      if (guardian !== started) return;
      guardian = null;
      if (!stopped) setTimeout(launch, againMs).unref();
    };
    started.once("error", over);
    started.once("exit", over);
    started.unref();
    for (const [pid, start] of wards) say({ add: pid, start });
  };
  return {
    add(pid) {
      const start = startOf(pid);
      if (start === null) return;
      wards.set(pid, start);
      if (guardian === null) launch();
      else say({ add: pid, start });
    },
    remove(pid) {
      wards.delete(pid);
      say({ remove: pid });
    },
    stop() {
      stopped = true;
      guardian?.stdin?.end();
    },
  };
}
