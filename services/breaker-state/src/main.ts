import { runService } from "@mcp-failover/service-kit";
import { breakerStateEnvironment } from "./config.ts";
import { startBreakerState } from "./wiring.ts";

await runService({ name: "breaker-state", config: breakerStateEnvironment, start: startBreakerState });
