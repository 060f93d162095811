import { runService } from "@mcp-failover/service-kit";
import { consoleEnvironment } from "./config.ts";
import { startConsole } from "./wiring.ts";

// Without NATS it shows the last known state and says so.
await runService({ name: "console", config: consoleEnvironment, start: startConsole, needsBus: false });
