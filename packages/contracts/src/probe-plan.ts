import type { EndpointTls } from "./endpoint-tls.ts";
import { isStdioUrl } from "./endpoint-transport.ts";
import { isQuadratic } from "./json-path.ts";
import {
  type EndpointProbe,
  type Expectation,
  type ExtraCheck,
  numeric,
  type ProbeConfig,
  type ProbeSeverity,
  type ProbeType,
} from "./probe-config.ts";
import { probePresets } from "./probe-presets.ts";
import type { SecretRef } from "./secret-ref.ts";
import type { EndpointConfig, Topology, UpstreamConfig } from "./topology.ts";

/**
 * What is checked of an endpoint, made from its upstream's `probe:`, its own, and their presets.
 *
 * P1  An endpoint's credentials (`headers`, `auth`, the certificate of its `tls:`) go to its own address alone: to the URL's own host and port, or to another port of that
 *     host where `port` or the type itself says so; and never in plain text where the endpoint has TLS. A check with a `url` of elsewhere
 *     carries only what it names itself.
 * P2  What is more particular stands over what is less so: endpoint, upstream, preset. Headers are joined by name, whatever their case.
 */
export interface ProbeCheck {
  readonly type: ProbeType;
  /** Whole, with its port. Empty for `heartbeat` and `exec`, and `resource` of a process: these have no address. */
  readonly url: string;
  readonly method: "GET" | "HEAD" | "POST";
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | SecretRef>>;
  readonly auth: { readonly username?: string | SecretRef | undefined; readonly password: SecretRef } | null;
  /** As it is sent. */
  readonly body: string | null;
  readonly serverName: string | null;
  readonly ca: string | SecretRef | null;
  /** The endpoint's own `tls:`. */
  readonly tls: EndpointTls | null;
  readonly expect: readonly Expectation[];
  /** What the check's own failure makes of the endpoint. */
  readonly severity: ProbeSeverity;
  readonly everyMs: number | null;
  readonly tools: EndpointProbe["mcp_tools"];
  readonly canary: EndpointProbe["mcp_canary"];
  readonly dns: { readonly name: string; readonly record: string; readonly server: string | null } | null;
  readonly heartbeat: EndpointProbe["heartbeat"];
  readonly resource: EndpointProbe["resource"];
  readonly exec: EndpointProbe["exec"];
}

/** How each type's address is written, and its usual port. */
const addresses: Partial<Record<ProbeType, { readonly plain: string; readonly tls: string; readonly port: number | null }>> = {
  mcp: { plain: "http:", tls: "https:", port: null },
  mcp_tools: { plain: "http:", tls: "https:", port: null },
  mcp_canary: { plain: "http:", tls: "https:", port: null },
  http: { plain: "http:", tls: "https:", port: null },
  resource: { plain: "http:", tls: "https:", port: null },
  websocket: { plain: "ws:", tls: "wss:", port: null },
  tcp: { plain: "tcp:", tls: "tcp:", port: null },
  tls: { plain: "tls:", tls: "tls:", port: null },
  redis: { plain: "redis:", tls: "rediss:", port: 6379 },
  bolt: { plain: "bolt:", tls: "bolt+s:", port: 7687 },
};
const schemePorts: Readonly<Record<string, string>> = { "http:": "80", "ws:": "80", "https:": "443", "wss:": "443" };

/** Everything that is checked of an endpoint, the main check first. */
export function probeChecks(upstream: Pick<UpstreamConfig, "kind" | "probe">, endpoint: EndpointConfig): readonly ProbeCheck[] {
  const own = merge(withPreset(upstream.probe), endpoint.probe === undefined ? {} : withPreset(endpoint.probe));
  const main = checkOf(own, endpoint, upstream.kind, { severity: "hard", everyMs: null });
  const more = (own.checks ?? []).map((extra) =>
    checkOf(withPreset(extra), endpoint, upstream.kind, { severity: extra.severity, everyMs: extra.every_ms ?? null }),
  );
  return [main, ...more];
}

type Layer = Partial<EndpointProbe>;

function withPreset(probe: ProbeConfig | EndpointProbe | ExtraCheck): Layer {
  return probe.preset === undefined ? probe : merge(probePresets[probe.preset], probe);
}

/** P2. */
function merge(below: Layer, above: Layer): Layer {
  const given = Object.fromEntries(Object.entries(above).filter(([, value]) => value !== undefined)) as Layer;
  const headers = { ...lowerCase(below.headers), ...lowerCase(above.headers) };
  return { ...below, ...given, ...(Object.keys(headers).length === 0 ? {} : { headers }) };
}

function lowerCase(headers: EndpointProbe["headers"]): Record<string, string | SecretRef> {
  return Object.fromEntries(Object.entries(headers ?? {}).map(([name, value]) => [name.toLowerCase(), value]));
}

function checkOf(
  probe: Layer,
  endpoint: EndpointConfig,
  kind: UpstreamConfig["kind"],
  own: { severity: ProbeSeverity; everyMs: number | null },
): ProbeCheck {
  // HTTP+SSE answers nothing that a probe of today's transports asks; each of its sessions is a stream that stays open.
  const type = probe.type ?? (endpoint.transport === "sse" ? "tcp" : kind);
  const url = addressOf(type, probe, endpoint);
  const trusted = probe.url === undefined || sameHost(url, endpoint.url);
  const { body } = probe;
  return {
    type,
    url,
    method: probe.method ?? (body === undefined ? "GET" : "POST"),
    headers: {
      ...(typeof body === "object" && type !== "websocket" ? { "content-type": "application/json" } : {}),
      ...(trusted ? lowerCase(endpoint.headers) : {}),
      ...lowerCase(probe.headers),
    },
    auth: probe.auth ?? (trusted ? (endpoint.auth ?? null) : null),
    body: body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body),
    serverName: probe.server_name ?? null,
    ca: probe.ca ?? null,
    tls: trusted ? (endpoint.tls ?? null) : null,
    expect: probe.expect ?? [],
    severity: own.severity,
    everyMs: own.everyMs,
    tools: probe.mcp_tools,
    canary: probe.mcp_canary,
    dns:
      type === "dns"
        ? {
            name: probe.dns?.name ?? new URL(endpoint.url).hostname,
            record: probe.dns?.record ?? "A",
            server: probe.dns?.server ?? null,
          }
        : null,
    heartbeat: probe.heartbeat,
    resource: probe.resource,
    exec: probe.exec,
  };
}

/** The address that a check goes to. A URL of the configuration has been looked at by {@link checkProblems}. */
function addressOf(type: ProbeType, probe: Layer, endpoint: EndpointConfig): string {
  const address = addresses[type];
  if (address === undefined || probe.resource?.pid_file !== undefined) return "";
  if (probe.url !== undefined) return URL.canParse(probe.url) ? joinPath(probe.url, probe.path ?? "") : probe.url;
  const base = new URL(endpoint.url);
  // A process of the router: nobody but the router can reach it, and the prober asks that.
  if (isStdioUrl(endpoint.url)) return endpoint.url;
  const isTls = base.protocol === "https:";
  if (type === "http" || type === "resource" || type === "mcp" || type === "mcp_tools" || type === "mcp_canary") {
    if (probe.port !== undefined) base.port = String(probe.port);
    const own = probe.port === undefined ? endpoint.url : base.href;
    return type === "http" || type === "resource" ? joinPath(own, probe.path ?? "") : own;
  }
  const port = probe.port ?? address.port ?? portOf(base);
  const scheme = isTls ? address.tls : address.plain;
  if (type === "websocket") {
    return joinPath(`${scheme}//${base.hostname}:${port}${base.pathname}${base.search}`, probe.path ?? "");
  }
  return `${scheme}//${base.hostname}:${port}`;
}

function portOf(url: URL): string {
  return url.port === "" ? (schemePorts[url.protocol] ?? "") : url.port;
}

/** P1: the same host and port, and no plain text where the endpoint has TLS. */
function sameHost(url: string, endpointUrl: string): boolean {
  if (url === "" || !URL.canParse(url)) return true;
  const [a, b] = [new URL(url), new URL(endpointUrl)];
  if (b.protocol === "https:" && !usesCertificate.test(a.protocol)) return false;
  return a.hostname === b.hostname && portOf(a) === portOf(b);
}

/** A probe's path put after the URL's own. */
export function joinPath(base: string, path: string): string {
  if (path === "") return base;
  const url = new URL(base);
  const [rest = "", query] = path.split("?", 2);
  if (rest !== "") url.pathname = `${url.pathname.replace(/\/$/, "")}/${rest.replace(/^\//, "")}`;
  if (query !== undefined) url.search = query;
  return url.href;
}

type Report = (path: readonly PropertyKey[], message: string) => void;
const usesCertificate = /^(https|wss|tls|rediss|bolt\+s|bolt\+ssc):$/;
const schemes: Partial<Record<ProbeType, readonly string[]>> = {
  mcp: ["http:", "https:"],
  mcp_tools: ["http:", "https:"],
  mcp_canary: ["http:", "https:"],
  http: ["http:", "https:"],
  resource: ["http:", "https:"],
  websocket: ["ws:", "wss:"],
  tcp: ["tcp:"],
  tls: ["tls:", "https:"],
  redis: ["redis:", "rediss:"],
  bolt: ["bolt:", "bolt+s:"],
};

/** What is wrong with the probes of a configuration, each at its path and with its fix. */
export function reportProbeProblems(config: Topology, report: Report): void {
  for (const [name, upstream] of Object.entries(config.upstreams)) {
    const at = ["upstreams", name, "probe"];
    const said = new Set<string>();
    upstream.endpoints.forEach((endpoint, index) => {
      const endpointAt = ["upstreams", name, "endpoints", index, "probe"];
      const own: EndpointProbe = endpoint.probe ?? {};
      const checks = probeChecks(upstream, endpoint);
      const extrasAt = own.checks !== undefined ? endpointAt : at;
      checks.forEach((check, position) => {
        const given = position === 0 ? { ...upstream.probe, ...own } : ((own.checks ?? upstream.probe.checks)?.[position - 1] ?? {});
        const where = (key: string): readonly PropertyKey[] =>
          position === 0 ? [...(key in own ? endpointAt : at), key] : [...extrasAt, "checks", position - 1, key];
        reportCheck(check, given, upstream, (key, message) => {
          const path = where(key);
          const once = `${path.map(String).join(".")} ${message}`;
          if (!said.has(once)) report(path, message);
          said.add(once);
        });
      });
    });
  }
}

function reportCheck(check: ProbeCheck, given: Layer, upstream: UpstreamConfig, wrong: (key: string, message: string) => void): void {
  const { type } = check;
  const measuresProcess = type === "resource" && check.resource?.stdio !== undefined;
  if (type !== "mcp" && type !== "http" && !measuresProcess && isStdioUrl(check.url))
    wrong(
      "type",
      `a probe of type ${type} needs an address, and stdio has none; ${type === "resource" ? "measure the process with resource: { stdio: largest, limit: 1000000000 }" : "leave the type out (the router is asked)"}, or give a url`,
    );
  if (measuresProcess && !isStdioUrl(check.url))
    wrong(
      "resource",
      "stdio measures processes that the router starts, and this address is none of them; measure one of metric, json and pid_file",
    );
  if (given.url !== undefined) {
    const allowed = schemes[type];
    if (allowed === undefined) wrong("url", `a probe of type ${type} has no address; remove it`);
    else if (!URL.canParse(given.url) || !allowed.includes(new URL(given.url).protocol))
      wrong(
        "url",
        `${JSON.stringify(given.url)}: a probe of type ${type} needs a URL that begins with ${allowed.map((scheme) => `${scheme}//`).join(" or ")}`,
      );
    else if (new URL(given.url).password !== "" || new URL(given.url).username !== "")
      wrong("url", "a password does not belong in this file; use auth: { username: ..., password: { secret: NAME } }");
    else if (type === "tcp" && new URL(given.url).port === "")
      wrong("url", `${JSON.stringify(given.url)} has no port; write tcp://host:port`);
    if (given.port !== undefined) wrong("port", "there is a url already; put the port into it");
  }
  if (type === "mcp_canary") {
    if (check.canary === undefined) wrong("mcp_canary", "say which tool is called: mcp_canary: { tool: NAME, arguments: { ... } }");
    else if (upstream.tools[check.canary.tool]?.read_only !== true)
      wrong(
        "mcp_canary",
        `the tool ${JSON.stringify(check.canary.tool)} is not known to be harmless; write read_only: true for it under the upstream's tools`,
      );
  }
  if (type === "heartbeat" && check.heartbeat === undefined)
    wrong("heartbeat", "say how old the last one may be and who may send it: heartbeat: { max_age_ms: 15000, token: { secret: NAME } }");
  if (type === "exec" && check.exec === undefined)
    wrong("exec", "name the command: exec: { command: NAME }; its line is in the prober's MCPF_EXEC_ALLOW");
  if (type === "resource") reportResource(check, wrong);
  if ((check.ca !== null || check.serverName !== null) && /^https?:/.test(check.url))
    wrong(
      check.ca === null ? "server_name" : "ca",
      "HTTP probes verify as the endpoint's tls: says; put ca_file or server_name there and remove it here",
    );
  for (const expectation of check.expect) {
    const problem = neverHolds(expectation) ?? tooSlow(expectation.path);
    if (problem !== null) wrong("expect", problem);
  }
  const slow = tooSlow(check.resource?.json);
  if (slow !== null) wrong("resource", slow);
  const certificate = check.expect.findIndex(({ of }) => of === "certificate_days");
  if (certificate >= 0 && !(URL.canParse(check.url) && usesCertificate.test(new URL(check.url).protocol)))
    wrong(
      "expect",
      `certificate_days needs a TLS address, and ${check.url === "" ? `a probe of type ${type} has none` : `${check.url} is none`}; remove it`,
    );
}

function tooSlow(path: string | undefined): string | null {
  if (path === undefined || !isQuadratic(path)) return null;
  return `${path} looks through the whole document for each value that its filter judges; in a filter, write single values after $, or begin at @`;
}

/** Why no answer can fulfil an expectation; null: one can. Every endpoint would be down, with what was expected and what was seen looking alike. */
function neverHolds({ of, equals, in: oneOf, min, max }: Expectation): string | null {
  const demanded = [...(equals === undefined ? [] : [equals]), ...(oneOf ?? [])];
  if (numeric.has(of)) {
    const text = demanded.find((value) => typeof value !== "number");
    return text === undefined ? null : `${of} is a number, and never ${JSON.stringify(text)}; write a number, without quotes`;
  }
  if (of === "json") return null;
  if (min !== undefined || max !== undefined) return `${of} is a text, and min and max are for numbers; use equals, in or matches`;
  const other = demanded.find((value) => value === null || typeof value === "boolean");
  return other === undefined ? null : `${of} is a text, and never ${other}; write "${other}" in quotes`;
}

function reportResource({ resource }: ProbeCheck, wrong: (key: string, message: string) => void): void {
  const sources = [resource?.metric, resource?.json, resource?.pid_file, resource?.stdio].filter((source) => source !== undefined);
  if (resource === undefined || sources.length !== 1) {
    wrong(
      "resource",
      "say what is measured, one of metric, json, pid_file and stdio, and its limit: resource: { metric: process_resident_memory_bytes, limit: 1000000000 }",
    );
  } else if ((resource.limit === undefined) === (resource.limit_metric === undefined)) {
    wrong("resource", "give either limit or limit_metric");
  } else if (resource.limit_metric !== undefined && resource.metric === undefined) {
    wrong("resource", "limit_metric is read beside metric; give limit where another source is measured");
  }
}
