import type { Kit } from "@mcp-failover/service-kit";
import type { RouterConfig } from "../config.ts";
import { callMetrics } from "./call-metrics.ts";
import type { CallObserver, CallRecord } from "./observed-control.ts";
import { createOtlpExporter, parseOtlpHeaders } from "./otlp.ts";
import { RequestTrace } from "./trace.ts";

/** What a router process says of its calls: metrics always, an access log and traces where they are asked for. */
export interface Observing extends CallObserver {
  /** Null: no traces. */
  readonly trace: ((headers: Record<string, string | string[] | undefined>) => RequestTrace) | null;
  stop(): Promise<void>;
}

type ObserveKit = Pick<Kit<RouterConfig>, "config" | "log" | "registry" | "instance">;

const namesMax = 128;

export function startObserving(kit: ObserveKit): Observing {
  const { config, log } = kit;
  const measure = callMetrics(kit.registry);
  const wanted = accessWanted(config.MCPF_ROUTER_ACCESS_LOG);
  const endpoint = config.OTEL_EXPORTER_OTLP_ENDPOINT;
  const exporter =
    endpoint === undefined
      ? null
      : createOtlpExporter({
          endpoint,
          headers: parseOtlpHeaders(config.OTEL_EXPORTER_OTLP_HEADERS),
          serviceName: config.OTEL_SERVICE_NAME,
          instance: kit.instance,
          onTrouble: (error, dropped) => log.warn({ err: error, dropped }, "spans could not be sent and are dropped"),
        });
  return {
    over(record) {
      measure(record);
      if (wanted === null || !wanted(record)) return;
      const { upstream, endpoint: name, outcome, code, attempts, tookMs, agent, operationId } = record;
      const [method, tool] = [record.method.slice(0, namesMax), record.tool?.slice(0, namesMax) ?? null];
      log.info({ access: { upstream, endpoint: name, method, tool, agent, outcome, code, ms: tookMs, attempts, operationId } }, "call");
    },
    trace: exporter === null ? null : (headers) => new RequestTrace(headers, exporter, config.OTEL_TRACES_SAMPLER_ARG),
    stop: async () => exporter?.stop(),
  };
}

/** `off`, `failures` (and what took more than one attempt), `all`, or the share of calls, failures besides. Null: nothing. */
function accessWanted(setting: RouterConfig["MCPF_ROUTER_ACCESS_LOG"]): ((record: CallRecord) => boolean) | null {
  if (setting === "off") return null;
  if (setting === "all") return () => true;
  const failed = ({ outcome, attempts }: CallRecord): boolean => attempts > 1 || (outcome !== "ok" && outcome !== "caller");
  if (setting === "failures") return failed;
  return (record) => failed(record) || Math.random() < setting;
}
