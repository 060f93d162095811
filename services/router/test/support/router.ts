import type { LastLists } from "../../src/aggregate/last-lists.ts";
import type { Bridges } from "../../src/bridge/bridged-client.ts";
import type { RouterControl } from "../../src/control/port.ts";
import { type DataPlane, type DataPlaneLimits, startDataPlane } from "../../src/data-plane.ts";
import type { Guard } from "../../src/identity/guard.ts";
import { createMemoryDirectory, type SessionDirectory } from "../../src/mcp/directory.ts";
import type { StreamClaims } from "../../src/mcp/inbound.ts";
import type { TaskBook } from "../../src/mcp/task-book.ts";
import type { Observing } from "../../src/observe/start-observing.ts";
import type { ServerTls } from "../../src/tls/server-tls.ts";

export interface TestRouter extends DataPlane {
  readonly mcpUrl: URL;
  readonly problems: unknown[];
}

/** A data plane on a free port of loopback. Errors that it logs are kept: a test that meets one fails by looking at them. */
export async function startTestRouter(
  control: RouterControl,
  options: {
    directory?: SessionDirectory;
    lastLists?: LastLists;
    tasks?: TaskBook;
    claims?: StreamClaims;
    limits?: Partial<DataPlaneLimits>;
    secret?: string;
    port?: number;
    bridges?: Bridges;
    guard?: Guard;
    probeTokens?: () => readonly string[];
    health?: (path: string) => Promise<{ status: number; type: string; body: string } | null>;
    observing?: Observing;
    tls?: ServerTls | null;
    front?: boolean;
    log?: (details: object, message: string) => void;
  } = {},
): Promise<TestRouter> {
  const problems: unknown[] = [];
  const quiet = (details: object, message: string): void => options.log?.(details, message);
  const plane = await startDataPlane({
    host: "127.0.0.1",
    port: options.port ?? 0,
    sessionSecret: options.secret ?? "a secret of the tests that is long enough",
    control,
    directory: options.directory ?? createMemoryDirectory(),
    claims: options.claims ?? { claim: async () => null },
    access: () => ({ hosts: [], origins: [] }),
    log: {
      debug: quiet,
      info: quiet,
      warn: quiet,
      error: (details, message) => {
        problems.push({ details, message });
      },
    },
    metrics: { call: () => undefined, replay: () => undefined },
    health: options.health ?? (async (path) => (path === "/healthz" ? { status: 200, type: "text/plain", body: "ok" } : null)),
    nowMs: () => Date.now(),
    tls: options.tls ?? null,
    front: options.front ?? true,
    ...(options.lastLists === undefined ? {} : { lastLists: options.lastLists }),
    ...(options.tasks === undefined ? {} : { tasks: options.tasks }),
    ...(options.observing === undefined ? {} : { observing: options.observing }),
    ...(options.guard === undefined ? {} : { guard: options.guard }),
    ...(options.probeTokens === undefined ? {} : { probeTokens: options.probeTokens }),
    ...(options.bridges === undefined ? {} : { bridges: options.bridges }),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  });
  return Object.assign(plane, { mcpUrl: new URL(`${plane.url}/mcp/fake`), problems });
}
