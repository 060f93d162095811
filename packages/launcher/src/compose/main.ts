import { basename, resolve } from "node:path";
import { parseArgs } from "node:util";
import { connectBus, readCredentials } from "@mcp-failover/bus";
import { containerHandlers } from "./containers.ts";
import { openEngine } from "./engine.ts";
import { openOwedStarts } from "./owed-starts.ts";

// For rehearsals against docker-compose.yml: what the launcher is for `npm start`, on the host. No container
// gets the engine's socket, which would be root on the host.
const { values } = parseArgs({ options: { project: { type: "string" } } });
const project =
  values.project ??
  process.env["COMPOSE_PROJECT_NAME"] ??
  basename(process.cwd())
    .toLowerCase()
    .replaceAll(/[^a-z0-9_-]/g, "");
const servers = process.env["NATS_URL"] ?? "nats://127.0.0.1:4222";
const folder = process.env["MCPF_CREDENTIALS_DIR"];
const credentials = folder === undefined ? {} : { credentials: readCredentials(folder) };
const bus = connectBus({ servers, name: "launcher", instance: "launcher-1", ...credentials });
const engine = openEngine(process.env["DOCKER_HOST"]);
const owed = openOwedStarts({
  file: resolve(".mcpf", `killed-containers.${project}.json`),
  engine,
  say: (text) => process.stderr.write(`compose:launcher: ${text}\n`),
});
const handlers = containerHandlers(project, engine, owed);
// One Ctrl-C comes from the terminal and from npm; and a terminal that is gone takes no more text.
const end = Promise.withResolvers<void>();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => end.resolve());
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
const serving = await bus.serve({
  name: "launcher",
  instance: "launcher-1",
  version: "0.1.0",
  description: "the containers of a Compose project",
  handlers,
});
process.stdout.write(`ready to kill and start the containers of ${project} on request, for \`mcpf chaos\`; Ctrl-C ends it\n`);
await end.promise;
await serving.stop();
const settled = await owed.settle();
await bus.close();
process.exit(settled ? 0 : 1);
