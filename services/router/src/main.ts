import { runService } from "@mcp-failover/service-kit";
import { routerConfig } from "./config.ts";
import { startRouter } from "./wiring.ts";

await runService({ name: "router", config: routerConfig, start: startRouter, needsBus: false });
