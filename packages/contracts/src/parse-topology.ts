import { isMap, isScalar, LineCounter, parseDocument, visit, type YAMLParseError } from "yaml";
import { reportAgentProblems } from "./agent-config.ts";
import { ambiguousWith, separatorDefault } from "./aggregate-names.ts";
import { hashOf } from "./canonical.ts";
import { isStdioUrl } from "./endpoint-transport.ts";
import { channelsMax, contactLimits, contactText } from "./incident.ts";
import { fixOf } from "./issue-words.ts";
import { configurationLimits } from "./log.ts";
import { reportProbeProblems } from "./probe-plan.ts";
import { type Topology, topology } from "./topology.ts";
import { latencyBucketsMs } from "./traffic.ts";

/** One thing that is wrong in a configuration: where, what was found, and what to do. */
export interface ConfigProblem {
  /** `upstreams.pinecone.endpoints.0.url` */
  readonly path: string;
  readonly line: number | null;
  readonly message: string;
}

/** The configuration cannot be used; the message lists every problem with its path, value and fix. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly code = "config_invalid";
  readonly retriable = false;
  readonly problems: readonly ConfigProblem[];
  constructor(problems: readonly ConfigProblem[], file: string) {
    super(
      `${file} cannot be used:\n${problems.map((p) => `  ${p.path}${p.line === null ? "" : ` (line ${p.line})`}: ${p.message}`).join("\n")}`,
    );
    this.problems = problems;
  }
}

export interface ParseTopologyOptions {
  /** Name of the file, for messages. */
  readonly file: string;
  /** Variables for `${NAME}` and `${NAME:-default}`. Never used for secrets. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Whether a secret of this name can be resolved; absent: not checked here. */
  readonly hasSecret?: (name: string) => boolean;
  /** Where the router will listen, besides `router.public_urls`. */
  readonly routerUrls?: readonly string[];
}

export interface ParsedTopology {
  readonly topology: Topology;
  readonly hash: string;
}

/** Reads `failover.yaml`. Throws {@link ConfigError} with every problem found, not only the first. */
export function parseTopology(text: string, options: ParseTopologyOptions): ParsedTopology {
  const foreign = text.indexOf("\ufffd");
  if (foreign !== -1) {
    const message = "here are bytes that are no UTF-8, which would become another character; save the file as UTF-8";
    throw new ConfigError([{ path: "(yaml)", line: text.slice(0, foreign).split("\n").length, message }], options.file);
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: isSameKey, maxAliasCount: 100 } as Parameters<
    typeof parseDocument
  >[1]);
  if (document.errors.length > 0) {
    throw new ConfigError(
      document.errors.map((error) => ({ path: "(yaml)", line: error.linePos?.[0].line ?? null, message: sayYaml(error) })),
      options.file,
    );
  }
  if (!isMap(document.contents)) {
    const found = document.contents?.range;
    const isEmpty = document.contents === null || (isScalar(document.contents) && document.contents.value === null);
    const message = `${isEmpty ? "it is empty" : "it is no mapping (key: value)"}; write ${smallest}`;
    throw new ConfigError([{ path: "(file)", line: isEmpty || !found ? 1 : lines.linePos(found[0]).line, message }], options.file);
  }
  const problems: ConfigProblem[] = [];
  const lineOf = (path: readonly PropertyKey[]): number | null => {
    for (let length = path.length; length > 0; length -= 1) {
      const key = path[length - 1];
      const parent = length === 1 ? document.contents : document.getIn(path.slice(0, length - 1), true);
      const pair = isMap(parent) ? parent.items.find((item) => isScalar(item.key) && String(item.key.value) === String(key)) : undefined;
      const node = (pair?.key ?? document.getIn(path.slice(0, length), true)) as { range?: [number, number, number] } | undefined;
      if (node?.range) return lines.linePos(node.range[0]).line;
    }
    return null;
  };
  const report = (path: readonly PropertyKey[], message: string): void => {
    problems.push({
      path: path.length === 0 ? "(file)" : path.map(String).join("."),
      line: lineOf(path),
      message: withoutCredentials(message),
    });
  };

  const raw = withHttpUrls(interpolate(plain(document, lines, options.file), options.env, report));
  const parsed = topology.safeParse(raw, { error: fixOf });
  if (!parsed.success) {
    for (const issue of parsed.error.issues) {
      if (issue.code === "unrecognized_keys") {
        for (const key of issue.keys)
          report([...issue.path, key], `unknown key${suggestion(key, issue.path)}; remove it or correct its spelling`);
        continue;
      }
      const found = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], raw);
      const nested = issue.code === "invalid_key" ? issue.issues.map((inner) => inner.message).join("; ") : issue.message;
      const written = document.getIn(issue.path);
      const isVariable =
        typeof written === "string" && written.includes("${") && issue.code === "invalid_type" && issue.expected !== "string";
      report(
        issue.path,
        `${nested}${isVariable ? "; a variable gives text, write the value itself" : ""} (${foundText(found, issue.path)})`,
      );
    }
    throw new ConfigError(problems, options.file);
  }
  checkMeaning(parsed.data, options, report);
  const bytes = Buffer.byteLength(JSON.stringify(parsed.data));
  const { bytesMax } = configurationLimits;
  if (bytes > bytesMax)
    report(
      [],
      `it has ${bytes} bytes as JSON, and at most ${bytesMax} can be applied; split it over several stacks, or shorten its names and contacts`,
    );
  if (problems.length > 0) throw new ConfigError(problems, options.file);
  return { topology: parsed.data, hash: hashOf(parsed.data) };
}

/** What to write into an empty file. */
const smallest = "upstreams: { NAME: { kind: mcp, endpoints: [{ name: primary, tier: 0, url: 'https://host.example/mcp' }] } }";

/** `1` and `"1"` are one key of what is made of it, so that one of two would be lost. */
function isSameKey(a: unknown, b: unknown): boolean {
  return a === b || (isScalar(a) && isScalar(b) && String(a.value) === String(b.value));
}

const yamlFixes: Readonly<Record<string, string>> = {
  TAB_AS_INDENT: "a tab indents this line, and YAML takes spaces alone; write spaces",
  MULTIPLE_DOCS: "another document begins here, and only one is read; take this line and what follows out",
};

/** A mistake of YAML itself; its line is said beside it. */
function sayYaml({ code, message }: YAMLParseError): string {
  return yamlFixes[code] ?? firstLine(message).replace(/ at line \d+, column \d+:?$/, "");
}

/** The YAML as values. Too many aliases (a "billion laughs") and aliases of nothing are thrown by the library only here. */
function plain(document: ReturnType<typeof parseDocument>, lines: LineCounter, file: string): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    const said = firstLine(error instanceof Error ? error.message : String(error));
    const isBomb = said.startsWith("Excessive alias count");
    const at = suspectAlias(document, isBomb);
    const message = isBomb ? "the aliases (*name) of this file stand for too many values" : said;
    const line = at === null ? null : lines.linePos(at).line;
    throw new ConfigError([{ path: "(yaml)", line, message: `${message}; write the values out` }], file);
  }
}

/** Where to look: the first alias without an anchor; of too many, the first of something that has aliases itself, else the last one of all. */
function suspectAlias(document: ReturnType<typeof parseDocument>, isBomb: boolean): number | null {
  let found: number | null = null;
  visit(document, {
    Alias(_key, alias) {
      const source = alias.resolve(document);
      const at = alias.range?.[0] ?? null;
      let isSuspect = source === undefined;
      if (isBomb && source !== undefined) {
        found = at;
        visit(source, {
          Alias() {
            isSuspect = true;
            return visit.BREAK;
          },
        });
      }
      if (!isSuspect) return undefined;
      found = at;
      return visit.BREAK;
    },
  });
  return found;
}

type Report = (path: readonly PropertyKey[], message: string) => void;

/** Where a secret belongs, somebody has perhaps written its value, or a variable that holds it. */
const secretPlaces: ReadonlySet<PropertyKey> = new Set(["auth", "body", "ca", "env", "headers", "secret", "token", "tokens"]);

/** What was found, for the message: never what may be a secret. */
function foundText(found: unknown, path: readonly PropertyKey[]): string {
  if (found === undefined) return "it is missing";
  if (Array.isArray(found)) return "found a list";
  if (found !== null && typeof found === "object") return `found a mapping of ${Object.keys(found).join(", ").slice(0, 120) || "nothing"}`;
  // Of a webhook the address is.
  const isHidden = path.some((key) => secretPlaces.has(key)) || (path[0] === "notifications" && path.at(-1) === "url");
  if (typeof found === "string" && isHidden) return "found a text, which is not shown here";
  return `found ${JSON.stringify(found)?.slice(0, 120)}`;
}

/** Takes user and password, and the query, out of the URLs in a text. */
function withoutCredentials(text: string): string {
  return text.replace(/(:\/\/)[^\s/?#"']*@/g, "$1...@").replace(/(:\/\/[^\s?#"']*\?)[^\s"']+/g, "$1...");
}

function checkMeaning(config: Topology, options: ParseTopologyOptions, report: Report): void {
  const routerOrigins = new Set([...(options.routerUrls ?? []), ...config.router.public_urls].map(originOf));
  const legacyToolOwner = new Map<string, string>();
  for (const [upstreamName, upstream] of Object.entries(config.upstreams)) {
    const at = ["upstreams", upstreamName];
    const names = new Map<string, number>();
    const urls = new Map<string, number>();
    upstream.endpoints.forEach((endpoint, index) => {
      const where = [...at, "endpoints", index];
      const sameName = names.get(endpoint.name);
      if (sameName !== undefined)
        report(
          [...where, "name"],
          `duplicate endpoint ${JSON.stringify(endpoint.name)}: endpoint ${sameName} has it too; give each endpoint its own name`,
        );
      names.set(endpoint.name, index);
      const url = new URL(endpoint.url).href;
      const sameUrl = urls.get(url);
      if (sameUrl !== undefined)
        report(
          [...where, "url"],
          `duplicate endpoint ${endpoint.url}: endpoint ${sameUrl} has the same URL, so it can be no backup for it`,
        );
      urls.set(url, index);
      if (upstream.kind !== "mcp" && (endpoint.stdio !== undefined || endpoint.transport !== undefined))
        report([...where, endpoint.stdio === undefined ? "transport" : "stdio"], "only an upstream of kind: mcp has it; remove it");
      if (!isStdioUrl(endpoint.url) && routerOrigins.has(originOf(endpoint.url)))
        report([...where, "url"], `${endpoint.url} points back at the router; give the upstream's own address`);
    });
    if (!upstream.endpoints.some((endpoint) => endpoint.role === "write"))
      report([...at, "endpoints"], "every endpoint has role: read; at least one must take writes");
    for (const [toolName, tool] of Object.entries(upstream.tools)) {
      if (tool.legacy === undefined) continue;
      const where = [...at, "tools", toolName, "legacy"];
      if (routerOrigins.has(originOf(tool.legacy.url))) {
        report(
          [...where, "url"],
          `${tool.legacy.url} points back at the router, so a fallback would loop; give the legacy API's own address`,
        );
      }
      const owner = legacyToolOwner.get(toolName);
      if (owner !== undefined)
        report(
          where,
          `the tool ${toolName} has a legacy implementation in the upstream ${owner} too; a tool that can be rolled back needs a name of its own`,
        );
      legacyToolOwner.set(toolName, upstreamName);
    }
  }
  checkAggregate(config, report);
  checkChannels(config, report);
  checkContacts(config, report);
  config.local.processes.forEach((process, index) => {
    if (process.serves === undefined) return;
    if (!isEndpoint(config, process.serves)) {
      report(
        ["local", "processes", index, "serves"],
        `no endpoint ${JSON.stringify(process.serves)}; write upstream/endpoint as named under upstreams`,
      );
    }
  });
  checkResponseTime(config, report);
  checkSeconds(config, report);
  checkAllowed(config, report);
  checkWritten(config, [], report);
  checkMaintenance(config, report);
  reportAgentProblems(config, report);
  checkSafetyRules(config, report);
  reportProbeProblems(config, report);
  if (options.hasSecret) {
    for (const { path, name } of secretsIn(withoutVariables(config))) {
      if (!options.hasSecret(name))
        report(
          path,
          `the secret ${name} is missing; set the environment variable ${name}, or put it into a file of that name in the folder MCPF_SECRETS_DIR`,
        );
    }
  }
}

/** `/mcp` tells its upstreams apart by their names, and those of tools and prompts come after the separator. */
function checkAggregate(config: Topology, report: Report): void {
  const { aggregate } = config.router;
  aggregate?.upstreams?.forEach((upstream, position) => {
    if (config.upstreams[upstream]?.kind !== "mcp")
      report(["router", "aggregate", "upstreams", position], `no upstream of kind mcp is named ${JSON.stringify(upstream)}; correct it`);
    const other = ambiguousWith(upstream, aggregate.upstreams ?? [], aggregate.separator ?? separatorDefault);
    if (other !== null)
      report(
        ["router", "aggregate", "upstreams", position],
        `tools of ${upstream} could be taken for some of ${other}; give router.aggregate another separator, or leave one of them out`,
      );
  });
}

/**
 * Routers count how long calls took by {@link latencyBucketsMs}: a limit between two bounds would mean the one above, and one over the last would
 * never be passed. Not in the schema, because a log that holds another value is still a configuration for everything else.
 */
function checkResponseTime({ rollback }: Topology, report: Report): void {
  const seconds = rollback.rollback_thresholds.response_time;
  const bounds = latencyBucketsMs.map((ms) => ms / 1000);
  if (bounds.includes(seconds)) return;
  report(
    ["rollback", "rollback_thresholds", "response_time"],
    `routers cannot tell which calls were slower than ${seconds} s; use one of ${bounds.join(", ")}`,
  );
}

/** Here, not in the schema: a log that holds such a one already is still a configuration for everything else. */
function checkChannels({ notifications: { channels } }: Topology, report: Report): void {
  const at = ["notifications", "channels"];
  if (channels.length > channelsMax)
    report(at, `${channels.length} channels are too many to tell; give at most ${channelsMax}, one may pass on to more`);
  if (channels.length === 0) report(at, "nobody would be told of anything; name a channel, or leave the key out, and the log is told");
  else if (channels.every(({ severities }) => severities.length > 0 && !severities.includes("page")))
    report(at, "no channel takes pages, and nobody would be woken; add page to the severities of one, it may be the log");
  const names = new Set<string>();
  channels.forEach(({ name, severities }, index) => {
    if (names.has(name)) report([...at, index, "name"], `duplicate channel ${JSON.stringify(name)}`);
    names.add(name);
    if (severities.length === 0)
      report([...at, index, "severities"], "it would be told nothing; write page, notify or both, or leave the key out for both");
  });
}

/** Nobody notices whom a message does not name. */
function checkContacts(config: Topology, report: Report): void {
  for (const [upstream, { contacts }] of Object.entries(config.upstreams)) {
    const at = ["upstreams", upstream, "contacts"];
    if (contacts.length > contactLimits.countMax)
      report(at, `${contacts.length} contacts are more than a message names; give at most ${contactLimits.countMax}`);
    contacts.forEach((contact, index) => {
      const how = Object.hasOwn(config.contacts, contact) ? config.contacts[contact] : undefined;
      const { length } = contactText(contact, how);
      if (length > contactLimits.charsMax)
        report([...at, index], `with how to reach it it has ${length} characters, and a message takes at most ${contactLimits.charsMax}`);
    });
  }
}

/**
 * The reference's seconds, held to the same least values as our own milliseconds: an interval of a millisecond would be an attack, a time-out of one an
 * outage. Not in the schema, as above.
 */
function checkSeconds({ rollback, fallback }: Topology, report: Report): void {
  const least = (path: readonly PropertyKey[], seconds: number | undefined, min: number): void => {
    if (seconds !== undefined && seconds < min) report(path, `${seconds} s is too short; give at least ${min}, in seconds`);
  };
  least(["rollback", "health_check_interval"], rollback.health_check_interval, 0.1);
  least(["rollback", "fallback_timeout"], rollback.fallback_timeout, 0.05);
  least(["fallback", "fallback_timeout"], fallback.fallback_timeout, 0.05);
}

/** As the router compares them: a name with its port, or an origin with a slash at its end, would never be that of a request. */
function checkAllowed({ router }: Topology, report: Report): void {
  router.allowed_hosts.forEach((host, index) => {
    if (!/^(\[[0-9a-fA-F:.]+\]|[^:/@?#\s]+)$/.test(host))
      report(["router", "allowed_hosts", index], `${JSON.stringify(host)} is no host name; write it without scheme, port and path, or *`);
  });
  router.allowed_origins.forEach((origin, index) => {
    if (origin === "*" || origin === "null") return;
    const own = URL.canParse(origin) ? new URL(origin).origin : "null";
    if (own === origin) return;
    const fix = own === "null" ? "https://console.example.com" : own;
    report(
      ["router", "allowed_origins", index],
      `no browser sends ${JSON.stringify(origin)}; write scheme, host and port, as ${fix}, or *`,
    );
  });
}

const credentialHeader = /^((proxy-)?authorization|cookie|(.*[-_])?(api-?key|token|secret|password))$/i;
const credentialVariable = /(^|_)(API_?KEY|TOKEN|SECRET|PASSWORD)$/;
/** As the router writes requests: the framing and the connection are its own business, and a header is one line of latin1. */
const framingHeader = /^(content-length|transfer-encoding|connection|keep-alive|upgrade|te|trailer|expect)$/i;
const unsendable = /[^\t\x20-\x7e\x80-\xff]/;
const asSecret = "it would stay in the log as it is written here, or in the variable; write { secret: NAME }";

/** Below these an operator's own names stand, which may be those of our keys. */
const namedByOperator: ReadonlySet<PropertyKey | undefined> = new Set(["upstreams", "agents", "tools", "contacts"]);

/** Headers that no request can have, and credentials in plain text: this file, with its variables filled in, is published and kept for ever. */
function checkWritten(value: unknown, path: readonly PropertyKey[], report: Report): void {
  if (typeof value === "string") {
    // Those of probes are looked at with the rest of the probe.
    if (path.at(-1) !== "url" || path.slice(2).includes("probe") || !URL.canParse(value)) return;
    const { username, password } = new URL(value);
    if (username !== "" || password !== "")
      report(
        path,
        "user and password do not belong into a URL: nobody sends them, and they would stay in the log; write auth: or headers: with { secret: NAME }",
      );
    return;
  }
  if (value === null || typeof value !== "object") return;
  for (const [key, inner] of Object.entries(value)) {
    // What a probe sends is the operator's own; processes beside `npm start` have no secrets.
    if ((key === "body" && !namedByOperator.has(path.at(-1))) || (path.length === 0 && key === "local")) continue;
    const at = [...path, Array.isArray(value) ? Number(key) : key];
    const parent = namedByOperator.has(path.at(-2)) ? null : path.at(-1);
    if (parent === "headers") checkHeader(key, inner, at, report);
    else if (parent === "env" && typeof inner === "string" && inner !== "" && path.includes("endpoints") && credentialVariable.test(key))
      report(at, asSecret);
    else checkWritten(inner, at, report);
  }
}

function checkHeader(name: string, value: unknown, path: readonly PropertyKey[], report: Report): void {
  const text = typeof value === "string" ? value : ((value as { prefix?: string }).prefix ?? "");
  if (framingHeader.test(name)) report(path, "whoever sends the request says this; remove it");
  else if (unsendable.test(text)) report(path, "a header cannot hold a control character, or one beyond latin1; remove it");
  else if (typeof value === "string" && value !== "" && credentialHeader.test(name))
    report(path, `${asSecret}, with prefix: "Bearer " where it needs one`);
}

/** Whether a key names an endpoint as it is compared later, `upstream/endpoint` and nothing more. */
function isEndpoint({ upstreams }: Topology, key: string): boolean {
  const [upstream = "", endpoint, ...more] = key.split("/");
  return (
    more.length === 0 && Object.hasOwn(upstreams, upstream) && upstreams[upstream]?.endpoints.some(({ name }) => name === endpoint) === true
  );
}

/** A window that names nothing that exists would protect nothing, and nobody would notice. */
function checkMaintenance(config: Topology, report: Report): void {
  const names = new Set<string>();
  config.maintenance?.forEach((window, index) => {
    const at = ["maintenance", index];
    if (names.has(window.name)) report([...at, "name"], `duplicate window ${JSON.stringify(window.name)}; give each window its own name`);
    names.add(window.name);
    window.upstreams?.forEach((upstream, position) => {
      if (!Object.hasOwn(config.upstreams, upstream))
        report([...at, "upstreams", position], `no upstream ${JSON.stringify(upstream)}; write it as named under upstreams`);
    });
    window.endpoints?.forEach((key, position) => {
      if (!isEndpoint(config, key))
        report([...at, "endpoints", position], `no endpoint ${JSON.stringify(key)}; write upstream/endpoint as named under upstreams`);
    });
  });
}

/** A rule about something that does not exist would never refuse anything, and nobody would notice. */
function checkSafetyRules(config: Topology, report: Report): void {
  const names = new Set<string>();
  config.safety_rules?.forEach((rule, index) => {
    const at = ["safety_rules", index];
    if (names.has(rule.name)) report([...at, "name"], `duplicate rule ${JSON.stringify(rule.name)}; give each rule its own name`);
    names.add(rule.name);
    rule.at_least?.endpoints.forEach((key, position) => {
      const where = [...at, "at_least", "endpoints", position];
      if (!isEndpoint(config, key)) report(where, `no endpoint ${JSON.stringify(key)}; write upstream/endpoint as named under upstreams`);
      else if (rule.at_least?.endpoints.indexOf(key) !== position)
        report(where, `${JSON.stringify(key)} is named before, and would count twice; remove it`);
    });
    const upstreams = { never_both_on_backup: rule.never_both_on_backup ?? [], no_moves: rule.no_moves?.upstreams ?? [] };
    for (const [key, listed] of Object.entries(upstreams)) {
      listed.forEach((upstream, position) => {
        if (!Object.hasOwn(config.upstreams, upstream))
          report([...at, key, position], `no upstream ${JSON.stringify(upstream)}; write it as named under upstreams`);
        else if (listed.indexOf(upstream) !== position)
          report(
            [...at, key, position],
            `${JSON.stringify(upstream)} is named before; remove it, or correct it where another one was meant`,
          );
      });
    }
  });
}

/** Every `{ secret: NAME }` of a configuration with its path. */
export function secretsIn(value: unknown, path: readonly PropertyKey[] = []): { path: readonly PropertyKey[]; name: string }[] {
  if (Array.isArray(value)) return value.flatMap((item, index) => secretsIn(item, [...path, index]));
  if (value === null || typeof value !== "object") return [];
  const secret = (value as { secret?: unknown }).secret;
  if (typeof secret === "string") return [{ path, name: secret }];
  return Object.entries(value).flatMap(([key, inner]) => secretsIn(inner, [...path, key]));
}

/** A configuration without the variables of `mcpf env` and `mcpf exec`: their secrets are known where those run, and nowhere else. */
export function withoutVariables(config: Topology): Topology {
  const upstreams = Object.entries(config.upstreams).map(([name, upstream]) => {
    const endpoints = upstream.endpoints.map(({ env: _, ...endpoint }) => endpoint);
    return [name, { ...upstream, endpoints }] as const;
  });
  return { ...config, upstreams: Object.fromEntries(upstreams) };
}

/** Any address that is this machine whatever its network: `URL` has written every form of an IP address in one way already. */
const loopback = /^(localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|\[::1?\]|\[::ffff:7f[0-9a-f]{2}:[0-9a-f]{1,4}\]|\[::ffff:0:0\])$/;

/** Host and port of a URL; for an address of this machine one name that stands for all. */
function originOf(url: string): string {
  const { protocol, hostname, port } = new URL(url);
  const number = port === "" ? (protocol === "https:" ? "443" : "80") : port;
  const host = hostname.replace(/\.$/, "");
  return `${loopback.test(host) || host.endsWith(".localhost") ? "localhost" : host}:${number}`;
}

/** Replaces `${NAME}` and `${NAME:-default}` in strings; a variable without value or default is a problem at its place. */
function interpolate(value: unknown, env: ParseTopologyOptions["env"], report: Report, path: readonly PropertyKey[] = []): unknown {
  if (typeof value === "string") {
    return value.replace(/\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/g, (_all, variable: string, fallback: string | undefined) => {
      const found = env[variable];
      if (found !== undefined && found !== "") return found;
      if (fallback !== undefined) return fallback;
      report(path, `the variable ${variable} is not set; set it, or write \${${variable}:-default}`);
      return "";
    });
  }
  if (Array.isArray(value)) return value.map((item, index) => interpolate(item, env, report, [...path, index]));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, interpolate(inner, env, report, [...path, key])]));
  }
  return value;
}

/** Endpoints written as `neo4j+s://host` become `https://host`, as the reference's health monitor has it; everything else stays. */
function withHttpUrls(raw: unknown): unknown {
  const upstreams = (raw as { upstreams?: unknown } | null)?.upstreams;
  for (const upstream of Object.values(upstreams ?? {}) as ({ endpoints?: unknown } | null)[]) {
    for (const endpoint of Array.isArray(upstream?.endpoints) ? (upstream.endpoints as ({ url?: unknown } | null)[]) : []) {
      if (typeof endpoint?.url === "string") endpoint.url = endpoint.url.replace(/^neo4j\+s(sc)?:\/\//, "https://");
    }
  }
  return raw;
}

const firstLine = (text: string): string => text.split("\n")[0]?.slice(0, 200) ?? "";

/** The known key nearest to a misspelt one, by edit distance, as ", did you mean ...?". */
function suggestion(key: string, path: readonly PropertyKey[]): string {
  const known = knownKeys(path);
  const best = known.map((candidate) => ({ candidate, distance: editDistance(key, candidate) })).sort((a, b) => a.distance - b.distance)[0];
  if (best && best.distance <= Math.max(2, Math.floor(key.length / 3))) return `, did you mean ${JSON.stringify(best.candidate)}?`;
  return known.length === 0 ? "" : ` (known here: ${known.join(", ")})`;
}

function knownKeys(path: readonly PropertyKey[]): string[] {
  let node: unknown = topology;
  for (const key of path) {
    const inner = unwrap(node);
    node = inner?.shape ? inner.shape[String(key)] : (inner?.valueType ?? inner?.element);
    if (node === undefined) return [];
  }
  return Object.keys(unwrap(node)?.shape ?? {});
}

interface Walkable {
  shape?: Record<string, unknown>;
  valueType?: unknown;
  element?: unknown;
  unwrap?: () => unknown;
  def?: { innerType?: unknown; in?: unknown };
}
/** The schema inside defaults, optionals and transforms. */
function unwrap(schema: unknown): Walkable | undefined {
  let current = schema as Walkable | undefined;
  for (let depth = 0; depth < 8; depth += 1) {
    const inner = current?.def?.innerType ?? current?.def?.in;
    if (inner === undefined) break;
    current = inner as Walkable;
  }
  return current;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const current = [i];
    for (let j = 1; j <= b.length; j += 1) {
      current[j] = Math.min((previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1, (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}
