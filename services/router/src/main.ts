// First: it is read once.
import "@mcp-failover/service-kit/threads";
import cluster from "node:cluster";
import { runService } from "@mcp-failover/service-kit";
import { routerConfig } from "./config.ts";
import { startRouter } from "./wiring.ts";
import { answerParent, runWorkers } from "./workers.ts";
import { growYoungGenerationAtOnce } from "./young-generation.ts";

growYoungGenerationAtOnce();
const workers = routerConfig.shape.MCPF_ROUTER_WORKERS.safeParse(process.env["MCPF_ROUTER_WORKERS"]);
// A wrong number is told by the service, with everything else that is wrong in the environment.
if (cluster.isPrimary && workers.success && workers.data > 1) await runWorkers(workers.data);
else {
  if (cluster.isWorker) answerParent();
  await runService({ name: "router", config: routerConfig, start: startRouter, needsBus: false });
}
