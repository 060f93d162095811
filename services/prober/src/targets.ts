import { type EndpointConfig, endpointKey, type Topology, type UpstreamConfig } from "@mcp-failover/contracts";
import { type HealthPolicy, policyFor, policyHash } from "@mcp-failover/domain";

/** One endpoint as the prober sees it. */
export interface Target {
  readonly key: string;
  readonly upstream: string;
  readonly endpoint: string;
  readonly critical: boolean;
  readonly type: "mcp" | "http";
  readonly url: string;
  /** Host and port: probes in flight are limited per host. */
  readonly host: string;
  readonly method: "GET" | "HEAD" | "POST";
  readonly headers: EndpointConfig["headers"];
  readonly auth: EndpointConfig["auth"];
  readonly policy: HealthPolicy;
  readonly policyHash: string;
  /** Changes when another server, or the same one with other credentials, is meant. */
  readonly identity: string;
}

/** Every endpoint of a configuration by its key. */
export function targetsOf(topology: Topology, environment: "development" | "production"): ReadonlyMap<string, Target> {
  const targets = new Map<string, Target>();
  for (const [name, upstream] of Object.entries(topology.upstreams)) {
    const policy = policyFor(topology, name, environment).health;
    const hash = policyHash(policy);
    for (const endpoint of upstream.endpoints) {
      const target = targetOf(name, upstream, endpoint, policy, hash);
      targets.set(target.key, target);
    }
  }
  return targets;
}

function targetOf(name: string, upstream: UpstreamConfig, endpoint: EndpointConfig, policy: HealthPolicy, hash: string): Target {
  const { probe } = upstream;
  const type = probe.type ?? upstream.kind;
  const url = type === "http" ? joinUrl(endpoint.url, probe.path) : endpoint.url;
  return {
    key: endpointKey(name, endpoint.name),
    upstream: name,
    endpoint: endpoint.name,
    critical: upstream.critical,
    type,
    url,
    host: new URL(url).host,
    method: probe.method,
    headers: endpoint.headers,
    auth: endpoint.auth,
    policy,
    policyHash: hash,
    identity: JSON.stringify([type, url, probe.method, endpoint.headers, endpoint.auth ?? null]),
  };
}

/** `probe.path` put after the endpoint's path. */
export function joinUrl(base: string, path: string): string {
  if (path === "") return base;
  const url = new URL(base);
  const [rest = "", query] = path.split("?", 2);
  if (rest !== "") url.pathname = `${url.pathname.replace(/\/$/, "")}/${rest.replace(/^\//, "")}`;
  if (query !== undefined) url.search = query;
  return url.href;
}
