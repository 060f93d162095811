import { runService } from "@mcp-failover/service-kit";
import { rollbackControllerConfig } from "./config.ts";
import { startRollbackController } from "./wiring.ts";

await runService({ name: "rollback-controller", config: rollbackControllerConfig, start: startRollbackController });
