import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { freePort, tempDir } from "@mcp-failover/testkit";
import { until } from "../../harness/wait.ts";
import { discover } from "./speech.ts";

export type HaproxyMode = "haproxy-retry-all" | "haproxy-safe";

/** Null: it is not installed. */
export function haproxyVersion(): string | null {
  const { status, stdout } = spawnSync("haproxy", ["-v"], { encoding: "utf8" });
  return status === 0 ? (/version (\S+)/.exec(stdout)?.[1] ?? "unknown") : null;
}

/**
 * The second server gets calls only while the first is down or failed this very call: `balance first` with `redispatch`. (A `backup` server gets no
 * call again as long as the first one is believed to be up.) HAProxy has but `timeout server` to leave a server that does not answer, and has to
 * leave it well before the agents' patience is over, or no read could be sent again in time.
 */
function configOf(mode: HaproxyMode, port: number, servers: readonly number[]): string {
  const headers = Object.entries({ host: "127.0.0.1", ...discover.headers }).map(([name, value]) => ` hdr ${name} "${value}"`);
  return `global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 2s
  timeout check 500ms
  timeout http-keep-alive 60s
frontend agents
  bind 127.0.0.1:${port}
  default_backend orders
backend orders
  balance first
  option redispatch 1
  retries 3
  retry-on all-retryable-errors
${mode === "haproxy-safe" ? "  http-request disable-l7-retry if METH_POST !{ req.hdr(mcp-name) -m str read }" : ""}
  option httpchk
  http-check send meth POST uri /mcp ver HTTP/1.1${headers.join("")} body '${discover.body}'
  http-check expect status 200
  default-server check inter 500ms fall 3 rise 2 observe layer7 error-limit 10 on-error mark-down
${servers.map((server, index) => `  server ${index === 0 ? "primary" : "secondary"} 127.0.0.1:${server}`).join("\n")}
`;
}

export interface RunningHaproxy {
  readonly url: string;
  stop(): Promise<void>;
}

export async function startHaproxy(mode: HaproxyMode, servers: readonly number[]): Promise<RunningHaproxy> {
  const { path, remove } = await tempDir("mcpf-haproxy-");
  const port = await freePort();
  const file = join(path, "haproxy.cfg");
  writeFileSync(file, configOf(mode, port, servers));
  let said = "";
  const child = spawn("haproxy", ["-db", "-f", file], { stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-4000)));
  await listens(child, port, () => said).catch(async (error: unknown) => {
    await remove();
    throw error;
  });
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      await ended(child);
      await remove();
    },
  };
}

/** Waits until a program that was just started takes connections. */
export async function listens(child: ChildProcess, port: number, said: () => string): Promise<void> {
  const open = (): Promise<boolean> =>
    new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(true));
      socket.once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });
  await until(
    () => child.exitCode !== null || open(),
    10_000,
    () => `something listens on ${port}; it said:\n${said()}`,
  ).catch(async (error: unknown) => {
    await ended(child);
    throw error;
  });
  if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}:\n${said()}`);
}

/** SIGKILL, also to one that is stopped, and waits for its end. */
export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill("SIGKILL");
  await closed;
}
