import { once } from "node:events";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import { connectBus, readCredentials } from "@mcp-failover/bus";
import { containerHandlers } from "./containers.ts";
import { openEngine } from "./engine.ts";

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
const handlers = containerHandlers(project, openEngine(process.env["DOCKER_HOST"]));
const serving = await bus.serve({
  name: "launcher",
  instance: "launcher-1",
  version: "0.1.0",
  description: "the containers of a Compose project",
  handlers,
});
process.stdout.write(`ready to kill and start the containers of ${project} on request, for \`mcpf chaos\`; Ctrl-C ends it\n`);
await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
await serving.stop();
await bus.close();
process.exit(0);
