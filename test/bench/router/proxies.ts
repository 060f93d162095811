import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort } from "@mcp-failover/testkit";
import { node24 } from "../../../scripts/lib/repo.mjs";
import { pinned } from "../prober/machine.ts";
import { calledBody, initializedBody } from "./answers.ts";
import { initializedNotification } from "./requests.ts";

/** A proxy under load: one process, on the core that is measured. */
export interface MeasuredProxy {
  readonly name: string;
  readonly port: number;
  readonly path: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/** Each with what it takes; null: this machine does not have it. */
const kinds: Readonly<Record<string, (upstreamPort: number, port: number, dir: string) => readonly [string, readonly string[]] | null>> = {
  "bare pipe": (upstreamPort, port) => [node24(), [fileOf("bare-pipe.ts"), String(upstreamPort), String(port)]],
  "http-proxy": (upstreamPort, port) => [node24(), ["--no-deprecation", fileOf("http-proxy.ts"), String(upstreamPort), String(port)]],
  nginx: (upstreamPort, port, dir) => {
    const program = installed("nginx");
    if (program === null) return null;
    const file = join(dir, "nginx.conf");
    const upstream = `upstream server { server 127.0.0.1:${upstreamPort}; keepalive 64; keepalive_requests 100000000; }`;
    const location = 'location / { proxy_pass http://server; proxy_http_version 1.1; proxy_set_header Connection ""; }';
    writeFileSync(file, nginxConfig(port, dir, location, upstream));
    return [program, ["-c", file, "-p", dir, "-e", join(dir, "nginx-error.log")]];
  },
  haproxy: (upstreamPort, port, dir) => {
    const program = installed("haproxy");
    if (program === null) return null;
    const file = join(dir, "haproxy.cfg");
    writeFileSync(file, haproxyConfig(upstreamPort, port));
    return [program, ["-f", file]];
  },
};

/** Starts one; null when it is not installed. */
export async function startProxy(name: string, upstreamPort: number, dir: string): Promise<MeasuredProxy | null> {
  const port = await freePort();
  const command = kinds[name]?.(upstreamPort, port, dir) ?? null;
  return command === null ? null : startPinned("measured", name, port, command);
}

/**
 * An nginx that answers as `upstream.ts` does, with a third of its processor time, so that what makes the calls has the core that they share
 * when it wants it. Null when it is not installed.
 */
export async function startAnsweringNginx(dir: string): Promise<MeasuredProxy | null> {
  const program = installed("nginx");
  if (program === null) return null;
  const port = await freePort();
  const file = join(dir, "answering.conf");
  writeFileSync(file, nginxConfig(port, dir, answeringLocation));
  return startPinned("others", "nginx that answers", port, [program, ["-c", file, "-p", dir, "-e", join(dir, "answering-error.log")]]);
}

async function startPinned(
  core: "measured" | "others",
  name: string,
  port: number,
  command: readonly [string, readonly string[]],
): Promise<MeasuredProxy> {
  const [program, args] = pinned(core, command[0], command[1]);
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  await listening(name, port, child);
  return {
    name,
    port,
    path: "/mcp",
    pid: child.pid as number,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

async function listening(name: string, port: number, child: ChildProcess): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "127.0.0.1", () => resolve(true));
      socket.on("error", () => resolve(false));
      socket.on("connect", () => socket.destroy());
    });
    if (open) return;
    await sleep(50);
  }
  throw new Error(`${name} did not listen within 10 s`);
}

function fileOf(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url));
}

function installed(name: string): string | null {
  return (
    ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"].map((dir) => join(dir, name)).find((file) => existsSync(file)) ?? null
  );
}

function nginxConfig(port: number, dir: string, location: string, upstream = ""): string {
  return `daemon off;
master_process off;
pid ${dir}/nginx-${port}.pid;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path ${dir}/body;
  proxy_temp_path ${dir}/proxy;
  fastcgi_temp_path ${dir}/fastcgi;
  uwsgi_temp_path ${dir}/uwsgi;
  scgi_temp_path ${dir}/scgi;
  keepalive_requests 100000000;
  ${upstream}
  server {
    listen 127.0.0.1:${port};
    ${location}
  }
}
`;
}

/** It cannot look into a body: a first request has no session, and the one notification is known by its length. */
const answeringLocation = `location / {
      default_type application/json;
      if ($request_method = GET) { return 405; }
      if ($http_mcp_session_id = "") { add_header mcp-session-id bench-session; return 200 '${JSON.stringify(initializedBody)}'; }
      if ($content_length = "${initializedNotification.length}") { return 202; }
      return 200 '${JSON.stringify(calledBody)}';
    }`;

function haproxyConfig(upstreamPort: number, port: number): string {
  return `global
  nbthread 1
  maxconn 1024
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind 127.0.0.1:${port}
  default_backend out
backend out
  server s 127.0.0.1:${upstreamPort}
`;
}
