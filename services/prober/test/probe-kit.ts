import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { topology } from "@mcp-failover/contracts";
import { proberPolicy } from "@mcp-failover/domain";
import { openSecrets } from "@mcp-failover/service-kit";
import { openProbeRunner, type ProbeMade, type ProbeRunner, type ProbeRunnerOptions } from "../src/probes/run-probe.ts";
import { type Target, targetsOf } from "../src/targets.ts";

/** A runner that ends with the test. */
export function runnerFor(
  t: TestContext,
  { secrets = {}, ...options }: Partial<Omit<ProbeRunnerOptions, "secrets">> & { secrets?: Record<string, string> } = {},
): ProbeRunner {
  const opened = openProbeRunner({
    policy: { ...proberPolicy, ...options.policy },
    nowMs: () => Date.now(),
    ...options,
    secrets: openSecrets(secrets, undefined),
  });
  t.after(() => opened.close());
  return opened;
}

/** One endpoint with this probe, as a configuration gives it. */
export function targetOf(probe: object, url = "http://127.0.0.1:9", more: { endpoint?: object; upstream?: object } = {}): Target {
  const endpoints = [{ name: "one", url, tier: 0, ...more.endpoint }];
  const parsed = topology.parse({ upstreams: { up: { kind: "http", probe, endpoints, ...more.upstream } } });
  return targetsOf(parsed, "development").get("up/one") as Target;
}

/** The result of one probe that says something. */
export async function resultOf(
  runner: ProbeRunner,
  target: Target,
  options: { fresh?: boolean; timeoutMs?: number } = {},
): Promise<ProbeMade["result"]> {
  const make = () => runner.probe(target, { fresh: false, timeoutMs: 2000, ...options });
  let probe = await make();
  // A busy machine that let the time-out fire too late has said nothing; it is asked again.
  for (let again = 0; again < 5 && probe.kind === "not_made" && probe.reason === "late"; again += 1) probe = await make();
  assert.equal(probe.kind, "made", JSON.stringify(probe));
  return (probe as ProbeMade).result;
}

/** A port whose packets are swallowed: the process behind it stands still, and its queue of connections is full. */
export async function silentPort(t: TestContext): Promise<number> {
  const code = 'const s=require("node:net").createServer();s.listen({port:0,host:"127.0.0.1",backlog:1},()=>console.log(s.address().port))';
  const child = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [first] = (await once(child.stdout, "data")) as [Buffer];
  const port = Number(first.toString("utf8"));
  child.kill("SIGSTOP");
  const sockets = Array.from({ length: 6 }, () => connect(port, "127.0.0.1").on("error", () => undefined));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  await sleep(200);
  return port;
}
