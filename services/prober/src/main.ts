// First: it is read once.
import "@mcp-failover/service-kit/threads";
import { runService } from "@mcp-failover/service-kit";
import { proberEnvironment } from "./config.ts";
import { startProber } from "./wiring.ts";

await runService({ name: "prober", config: proberEnvironment, start: startProber, needsBus: false });
