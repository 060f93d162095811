import type {
  AttemptResult,
  CallControl,
  CallDescription,
  EndpointVia,
  EndpointView,
  RouterControl,
  UpstreamView,
} from "../../src/control/port.ts";

/**
 * A control for tests of the data plane alone: one upstream `fake`, the endpoints in order after the active one, a retry where the
 * tool is read-only or the attempt provably did not run. It keeps what it was told.
 */
export interface FakeControl extends RouterControl {
  active: string;
  readonly told: { endpoint: string; method: string; tool: string | null; result: AttemptResult }[];
  readonly calls: CallDescription[];
  readonly ended: ("ok" | "error" | "given_up")[];
  legacy: CallControl["legacy"];
  implementation: "mcp" | "legacy";
  readOnly: Set<string>;
  face: ReturnType<NonNullable<CallControl["legacyFace"]>>;
  /** Given to every attempt. */
  givenUp: AbortController | null;
  view: UpstreamView;
  /** What every call hears of its route. */
  stale: boolean;
  move(endpoint: string): void;
}

export function fakeControl(
  endpoints: readonly {
    name: string;
    url: string;
    headers?: Readonly<Record<string, string>>;
    via?: EndpointVia;
    tls?: EndpointView["tls"];
  }[],
  options: Partial<UpstreamView> = {},
): FakeControl {
  const listeners = new Set<(upstream: string) => void>();
  const views: EndpointView[] = endpoints.map(({ name, url, headers = {}, via, tls }) => ({
    name,
    url,
    role: "write",
    headers,
    ...(via === undefined ? {} : { via }),
    ...(tls === undefined ? {} : { tls }),
  }));
  const control: FakeControl = {
    active: views[0]?.name ?? "",
    told: [],
    calls: [],
    ended: [],
    legacy: null,
    implementation: "mcp",
    givenUp: null,
    stale: false,
    readOnly: new Set(["tools/list", "initialize", "whoami", "slow", "GET", "HEAD", "resources/list", "prompts/list", "server/discover"]),
    face: { tools: [], inForce: false },
    view: {
      name: "fake",
      kind: "mcp",
      mode: "active_standby",
      sessions: "replayable",
      active: "",
      epoch: 0,
      generation: 1,
      endpoints: views,
      bodyBytesMax: 256 * 1024,
      callMs: 10_000,
      ...options,
    },
    move(endpoint) {
      control.active = endpoint;
      for (const listener of listeners) listener("fake");
    },
    upstream: (name) => (name === "fake" ? { ...control.view, active: control.active } : null),
    upstreams: () => ["fake"],
    ready: () => ({ ok: true, reason: "" }),
    learnTools: () => undefined,
    onRouteChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    begin(call) {
      control.calls.push(call);
      const mayBeLegacy = call.tool !== null && (call.mcpOnly ?? null) === null;
      const safe = control.readOnly.has(call.tool ?? call.method);
      const order = [...views].sort((a, b) => Number(b.name === control.active) - Number(a.name === control.active));
      const deadlineMs = Math.min(call.deadlineMs, call.startedAtMs + control.view.callMs);
      let unknown = false;
      let refused = false;
      let givenUp = false;
      return {
        deadlineMs,
        fallbackDeadlineMs: deadlineMs,
        implementation: mayBeLegacy ? control.implementation : "mcp",
        safety: safe ? "read_only" : "unsafe",
        stale: control.stale,
        next() {
          const endpoint = refused || givenUp ? undefined : order.shift();
          if (endpoint === undefined) return null;
          return {
            endpoint,
            connectMs: 500,
            givenUp: control.givenUp?.signal ?? null,
            answering: () => undefined,
            done(result) {
              control.told.push({ endpoint: endpoint.name, method: call.method, tool: call.tool, result });
              if (result.outcome === "hard" && result.executed === "unknown") unknown = true;
              const retry =
                result.outcome === "ineligible" ||
                (result.outcome === "hard" && (result.executed === "no" || safe)) ||
                (result.outcome === "soft" && (safe || (result.executed === "no" && order.length > 0)));
              refused = !retry;
              return { retry };
            },
          };
        },
        legacyFace: () => control.face,
        problem: () =>
          unknown && !safe
            ? { code: "outcome_unknown", message: "the call may have run", retriable: false }
            : { code: "no_endpoint", message: "no endpoint can be reached", retriable: true },
        get legacy() {
          return mayBeLegacy && !(unknown && !safe) ? control.legacy : null;
        },
        end(outcome) {
          if (!givenUp) control.ended.push(outcome);
          givenUp ||= outcome === "given_up";
        },
      };
    },
  };
  return control;
}
