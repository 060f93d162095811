import { spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { exhaustedBy } from "@mcp-failover/service-kit";
import { type CheckContext, type CheckFound, documentOf, NotMadeError } from "./check.ts";
import { hardResult, okResult } from "./result.ts";

/** Command lines by name, from the prober's own environment: the configuration, which travels, can only name one. */
export type ExecAllow = ReadonlyMap<string, readonly [string, ...string[]]>;

const outputBytesMax = 64 * 1024;
/** What a command wrote before it ended is waited for this long. */
const outputRestMs = 250;

/**
 * Probes by a command of MCPF_EXEC_ALLOW: no shell, no arguments from elsewhere, a bare environment, a process group of its own that is killed
 * at the time-out. 0 is well, the configured codes are degraded, any other is a failure.
 */
export async function probeExec(context: CheckContext, allow: ExecAllow, path: string): Promise<CheckFound> {
  const { check, signal, upstream, endpoint } = context;
  const name = check.exec?.command ?? "";
  const line = allow.get(name);
  if (line === undefined) {
    throw new NotMadeError("not_allowed", `the command ${JSON.stringify(name)} is not in this prober's MCPF_EXEC_ALLOW; add it there`);
  }
  const [program, ...args] = line;
  const startedMs = performance.now();
  const env = { PATH: path, MCPF_UPSTREAM: upstream, MCPF_ENDPOINT: endpoint, LC_ALL: "C" };
  const child = started(name, () => spawn(program, args, { shell: false, detached: true, stdio: ["ignore", "pipe", "ignore"], env }));
  // Always heard, also where nobody waits any more: an error that nobody hears ends this process.
  child.on("error", () => undefined);
  // Without a free file descriptor there are no pipes either.
  if (!(child.stdout as Readable | null | undefined)) throw notStarted(name, Object.assign(new Error("no pipe"), { code: "EMFILE" }));
  const killGroup = (): void => {
    if (child.pid === undefined) return;
    try {
      // The whole group: a command's own children outlive it otherwise.
      process.kill(-child.pid, "SIGKILL");
    } catch (error) {
      // EPERM: what runs as another user (sudo, a setuid program) is not ours to kill, and no reason for this process to die.
      if (!["ESRCH", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  };
  let output = "";
  const decoder = new StringDecoder("utf8");
  child.stdout.on("data", (chunk: Buffer) => {
    if (output.length < outputBytesMax) output += decoder.write(chunk);
  });
  const abort = (): void => {
    killGroup();
    child.stdout.destroy();
  };
  signal.addEventListener("abort", abort, { once: true });
  try {
    const ended = await new Promise<{ code: number | null; killedBy: string | null }>((resolve, reject) => {
      child.once("error", reject);
      signal.addEventListener("abort", () => reject(new DOMException("the probe has ended", "AbortError")), { once: true });
      child.once("exit", () => {
        killGroup();
        // What went into a group of its own lives on, and must not keep this probe waiting for its output.
        setTimeout(() => child.stdout.destroy(), outputRestMs).unref();
      });
      child.once("close", (code, killedBy) => resolve({ code, killedBy }));
    });
    if (signal.aborted) throw new DOMException("the probe has ended", "AbortError");
    const latencyMs = performance.now() - startedMs;
    const seen = { latencyMs, status: ended.code, body: output, ...documentOf(output) };
    if (ended.code === 0) return { result: okResult(latencyMs), seen };
    const how = ended.code === null ? `was ended by ${ended.killedBy}` : `exited with ${ended.code}`;
    if (ended.code !== null && check.exec?.degraded_exit_codes?.includes(ended.code)) {
      return {
        result: { ...okResult(latencyMs), degraded: { code: "assertion", detail: `the command ${name} ${how}; expected 0` } },
        seen,
      };
    }
    return { result: hardResult("other", `the command ${name} ${how}; expected 0`), seen };
  } catch (error) {
    // Whatever kept it from starting is on this machine, and says nothing of the endpoint.
    if (child.pid === undefined && !signal.aborted) throw notStarted(name, error);
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
    child.stdout.destroy();
  }
}

function notStarted(name: string, error: unknown): NotMadeError {
  const { code = "unknown" } = error as NodeJS.ErrnoException;
  // EAGAIN: no more processes.
  const reason = exhaustedBy(error) !== null || code === "EAGAIN" ? "exhausted" : "not_allowed";
  return new NotMadeError(reason, `the command ${name} of MCPF_EXEC_ALLOW cannot be started: ${code}`);
}

/** Some reasons not to start are thrown, others are told later. */
function started<T>(name: string, start: () => T): T {
  try {
    return start();
  } catch (error) {
    throw notStarted(name, error);
  }
}
