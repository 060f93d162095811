import { runService } from "@mcp-failover/service-kit";
import { chaosEnvironment } from "./config.ts";
import { startChaosRunner } from "./wiring.ts";

await runService({ name: "chaos-runner", config: chaosEnvironment, start: startChaosRunner });
