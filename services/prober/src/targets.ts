import {
  type EndpointConfig,
  endpointKey,
  isStdioUrl,
  joinPath,
  type ProbeCheck,
  type ProbeType,
  probeChecks,
  type Topology,
  type UpstreamConfig,
} from "@mcp-failover/contracts";
import { type HealthPolicy, policyFor, policyHash } from "@mcp-failover/domain";

/** One endpoint as the prober sees it. */
export interface Target {
  readonly key: string;
  readonly upstream: string;
  readonly endpoint: string;
  readonly critical: boolean;
  /** Of the main check. */
  readonly type: ProbeType;
  readonly url: string;
  /** Host and port: probes in flight are limited per host. */
  readonly host: string;
  /** What is checked, the main check first. */
  readonly checks: readonly TargetCheck[];
  readonly policy: HealthPolicy;
  readonly policyHash: string;
  /** Changes when another server, or the same one with other credentials, is meant. */
  readonly identity: string;
}

/** `asksRouter`: a router is asked about a process of its own, and has to know us for a prober. */
type TargetCheck = ProbeCheck & { readonly asksRouter?: true };

const localRouterUrl = "http://127.0.0.1:7300";

/** Every endpoint of a configuration by its key. `routerUrl`: who is asked about processes of the router (`stdio:`). */
export function targetsOf(
  topology: Topology,
  environment: "development" | "production",
  routerUrl: string = topology.router.public_urls[0] ?? localRouterUrl,
): ReadonlyMap<string, Target> {
  const targets = new Map<string, Target>();
  for (const [name, upstream] of Object.entries(topology.upstreams)) {
    const policy = policyFor(topology, name, environment).health;
    const hash = policyHash(policy);
    for (const endpoint of upstream.endpoints) {
      const target = targetOf(name, upstream, endpoint, policy, hash, topology.rollback.rollback_thresholds.memory_usage, routerUrl);
      targets.set(target.key, target);
    }
  }
  return targets;
}

/** Types whose address says nothing of where a connection would be taken, or that need none. */
const unconnected: ReadonlySet<ProbeType> = new Set(["dns", "exec", "heartbeat"]);
const loopback = /^[a-z+]+:\/\/(localhost|127\.|\[::1\])/;

/**
 * Where the targets take connections, each address once. What is on this machine is left out where anything else is there: it is reached
 * without a network, too. `start` (0 to 1) says with which the list begins, so that not all probers try the same.
 */
export function addressesOf(targets: ReadonlyMap<string, Target>, start: number): readonly string[] {
  const found = new Set<string>();
  for (const { type, url } of targets.values()) {
    if (unconnected.has(type)) continue;
    const { protocol, host } = new URL(url);
    if (host !== "") found.add(`${protocol}//${host}`);
  }
  const all = [...found];
  const elsewhere = all.filter((url) => !loopback.test(url));
  const used = elsewhere.length > 0 ? elsewhere : all;
  const from = Math.floor(start * used.length);
  return [...used.slice(from), ...used.slice(0, from)];
}

function targetOf(
  name: string,
  upstream: UpstreamConfig,
  endpoint: EndpointConfig,
  policy: HealthPolicy,
  hash: string,
  memoryUsage: number,
  routerUrl: string,
): Target {
  // The reference's threshold is the limit of every resource that is not given its own.
  const checks = probeChecks(upstream, endpoint).map((given) => {
    const check = isStdioUrl(given.url) ? askingRouter(given, joinPath(routerUrl, `probe/${name}/${endpoint.name}`)) : given;
    return check.resource === undefined || check.resource.ratio_max !== undefined
      ? check
      : { ...check, resource: { ...check.resource, ratio_max: memoryUsage } };
  });
  const url = checks[0]?.url || endpoint.url;
  return {
    key: endpointKey(name, endpoint.name),
    upstream: name,
    endpoint: endpoint.name,
    critical: upstream.critical,
    type: checks[0]?.type ?? upstream.kind,
    url,
    host: new URL(url).host,
    checks,
    policy,
    policyHash: hash,
    identity: JSON.stringify(checks),
  };
}

/** Only the router reaches its processes: it sends one a ping for whoever asks, and answers 200 or 503; and it says what they use. */
function askingRouter(check: ProbeCheck, url: string): TargetCheck {
  const asked = { ...check, asksRouter: true, url, method: "GET", headers: {}, auth: null, tls: null, body: null } as const;
  const { resource } = check;
  if (check.type !== "resource" || resource?.stdio === undefined) return { ...asked, type: "http" };
  return { ...asked, url: joinPath(url, "memory"), resource: { ...resource, json: `$.${resource.stdio}Bytes` } };
}
