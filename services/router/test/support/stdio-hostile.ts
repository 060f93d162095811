import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

/**
 * A stdio server as none should be, without an SDK. Its tools: `deep` answers with what is nested without end, `leave` ends and leaves a process
 * behind that has its standard error and whose pid it writes to the file WRITES; `think` does nothing else for so many milliseconds;
 * `whoami` says its pid. With MUTE in its environment it never answers `initialize`; with BRIEF it ends soon after its first answer.
 */
const say = (id: unknown, result: string): void => {
  process.stdout.write(`{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${result}}\n`);
  if (process.env["BRIEF"] !== undefined) setTimeout(() => process.exit(1), 20);
};
const server = { capabilities: { tools: {} }, serverInfo: { name: "hostile", version: "1" } };

createInterface(process.stdin).on("line", (line) => {
  const { id, method, params } = JSON.parse(line) as {
    id?: unknown;
    method?: string;
    params?: { name?: string; arguments?: { ms?: number } };
  };
  if (id === undefined) return;
  if (method === "initialize" && process.env["MUTE"] !== undefined) return;
  if (method === "initialize") say(id, JSON.stringify({ protocolVersion: "2025-11-25", ...server }));
  else if (method === "server/discover") say(id, JSON.stringify({ resultType: "complete", supportedVersions: ["2026-07-28"], ...server }));
  else if (params?.name === "deep") say(id, `{"content":[],"x":${"[".repeat(100_000)}${"]".repeat(100_000)}}`);
  else if (params?.name === "leave") {
    const left = spawn("sleep", ["10"], { detached: true, stdio: ["ignore", "ignore", "inherit"] });
    writeFileSync(process.env["WRITES"] ?? "", String(left.pid));
    process.exit(1);
  } else {
    if (params?.name === "think") Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, params.arguments?.ms);
    say(id, JSON.stringify({ resultType: "complete", content: [{ type: "text", text: `hostile ${process.pid}` }] }));
  }
});
