import { isStdioUrl } from "@mcp-failover/contracts";
import type { EndpointView } from "../control/port.ts";
import { type UpstreamClient, UpstreamError, type UpstreamRequest, type UpstreamResponse } from "../upstream-client.ts";

/** What carries requests to endpoints that speak no Streamable HTTP. */
export interface Bridge {
  send(request: UpstreamRequest): Promise<UpstreamResponse>;
  configure(endpoints: readonly EndpointView[]): void;
  close(): Promise<void>;
}
export type Bridges = Readonly<Partial<Record<NonNullable<EndpointView["via"]>["kind"], Bridge>>>;

/** An {@link UpstreamClient} that sends each request the way of its endpoint. `endpoints`: those that are configured now. */
export function bridgedClient(http: UpstreamClient, bridges: Bridges, endpoints: () => readonly EndpointView[]): UpstreamClient {
  const configure = (): void => {
    const now = endpoints();
    for (const [kind, bridge] of Object.entries(bridges)) bridge.configure(now.filter(({ via }) => via?.kind === kind));
  };
  configure();
  return {
    send(request) {
      const { via, name } = request.endpoint;
      if (via === undefined) return http.send(request);
      const bridge = bridges[via.kind];
      if (bridge !== undefined) return bridge.send(request);
      return Promise.reject(new UpstreamError("refused", `${name} cannot be reached from here (${via.kind})`, false));
    },
    retain(urls) {
      // Those of `sse` are reached over HTTP too.
      http.retain(new Set([...urls].filter((url) => !isStdioUrl(url))));
      configure();
    },
    async close() {
      await Promise.all([http.close(), ...Object.values(bridges).map((bridge) => bridge.close())]);
    },
  };
}
