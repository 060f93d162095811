import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { startOf } from "./process-identity.ts";

/** A process beside us that ends our children should we be killed. It is started anew when it ends itself. */
export interface Guard {
  add(pid: number, rank: number): void;
  remove(pid: number): void;
  dismiss(): void;
}

const againMs = 500;

export function startGuard(): Guard {
  const wards = new Map<number, { start: string; rank: number }>();
  let guardian: ChildProcess | null = null;
  let dismissed = false;
  const say = (what: object): void => {
    guardian?.stdin?.write(`${JSON.stringify(what)}\n`);
  };
  const launch = (): void => {
    if (dismissed) return;
    const started = spawn(process.execPath, [fileURLToPath(new URL("./guardian.ts", import.meta.url))], {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
      env: process.env["NODE_COMPILE_CACHE"] === undefined ? {} : { NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] },
    });
    guardian = started;
    started.stdin?.on("error", () => undefined);
    started.once("error", () => undefined);
    started.once("exit", () => {
      if (guardian === started) guardian = null;
      if (!dismissed) setTimeout(launch, againMs).unref();
    });
    for (const [pid, ward] of wards) say({ add: pid, ...ward });
  };
  launch();
  return {
    add(pid, rank) {
      const start = startOf(pid);
      if (start === null) return;
      wards.set(pid, { start, rank });
      say({ add: pid, start, rank });
    },
    remove(pid) {
      wards.delete(pid);
      say({ remove: pid });
    },
    dismiss() {
      dismissed = true;
      say({ bye: true });
      guardian?.stdin?.end();
    },
  };
}
