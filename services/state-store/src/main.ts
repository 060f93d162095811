import { runService } from "@mcp-failover/service-kit";
import { stateStoreEnvironment } from "./config.ts";
import { startStateStore } from "./wiring.ts";

// Without NATS it still serves and restores what it has: that degrades it, but does not make it unready.
await runService({ name: "state-store", config: stateStoreEnvironment, start: startStateStore, needsBus: false });
