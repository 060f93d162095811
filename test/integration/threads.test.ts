import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

// Counts at the exit: what has begun a thread before the number was set has begun all four, and no look-up brings another.
const counts = `process.on("exit", () => {
  process.getBuiltinModule("node:dns").lookup("localhost", () => {});
  const threads = process.getBuiltinModule("node:fs").readdirSync("/proc/self/task").length;
  process.getBuiltinModule("node:fs").writeSync(1, "threads " + threads + "\\n");
});`;

for (const service of ["prober", "router"]) {
  test(`a ${service} has more threads for names than Node's four, from its first moment on`, async (t) => {
    if (process.platform !== "linux") return t.skip("threads are counted in /proc");
    const { UV_THREADPOOL_SIZE: _, ...env } = process.env;
    const main = fileURLToPath(new URL(`../../services/${service}/src/main.ts`, import.meta.url));
    // Ends by itself: the environment is wrong.
    const child = spawn(process.execPath, ["--import", `data:text/javascript,${encodeURIComponent(counts)}`, main], {
      env: { ...env, NATS_URL: "no address", MCPF_HEALTH_PORT: "none", MCPF_ROUTER_PORT: "none" },
      stdio: ["ignore", "pipe", "ignore"],
    });
    t.after(() => child.kill("SIGKILL"));
    let said = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    await once(child, "close");
    assert.ok(Number(/^threads (\d+)$/m.exec(said)?.[1]) >= 64, said);
  });
}
