import "./threads.ts";
import { runService } from "@mcp-failover/service-kit";
import { proberEnvironment } from "./config.ts";
import { startProber } from "./wiring.ts";

await runService({ name: "prober", config: proberEnvironment, start: startProber, needsBus: false });
