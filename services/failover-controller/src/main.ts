import { runService } from "@mcp-failover/service-kit";
import { failoverControllerConfig } from "./config.ts";
import { startFailoverController } from "./wiring.ts";

await runService({ name: "failover-controller", config: failoverControllerConfig, start: startFailoverController });
