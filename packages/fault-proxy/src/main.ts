import { runService } from "@mcp-failover/service-kit";
import { configSchema } from "./config.ts";
import { startFaultProxy } from "./start.ts";

await runService({ name: "fault-proxy", config: configSchema, start: startFaultProxy, needsBus: false });
