import { runService } from "@mcp-failover/service-kit";
import { z } from "zod";
import { startNotifier } from "./wiring.ts";

await runService({ name: "notifier", config: z.object({}), start: startNotifier });
