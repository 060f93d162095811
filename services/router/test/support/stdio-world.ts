import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import type { EndpointVia } from "../../src/control/port.ts";
import { createStdioBridge, type StdioBridge } from "../../src/stdio/bridge.ts";
import type { StdioLimits } from "../../src/stdio/limits.ts";
import { startOf } from "../../src/stdio/process-start.ts";
import { type FakeControl, fakeControl } from "./fake-control.ts";
import { startTestRouter, type TestRouter } from "./router.ts";

const script = (name: string): string => join(import.meta.dirname, name);
const allow = new Map<string, readonly [string, ...string[]]>([
  ["server", [process.execPath, script("stdio-server.ts")]],
  ["hostile", [process.execPath, script("stdio-hostile.ts")]],
  ["modern", [process.execPath, script("stdio-modern.ts")]],
]);
export const dead = (pid: number): boolean => startOf(pid) === null;

interface Via {
  command?: string;
  args?: string[];
  env?: Record<string, string>;
  sessionsMax?: number;
}
/** An endpoint that the router runs itself. */
export function stdio(
  name: string,
  { command = "server", args = [], env = {}, sessionsMax }: Via = {},
): { name: string; url: string; via: EndpointVia } {
  return { name, url: `stdio://${name}/${command}`, via: { kind: "stdio", command, args, env, cwd: undefined, sessionsMax } };
}

/** A router with stdio endpoints, made anew for each test of the suite that calls this; no process outlives its test. */
export class StdioWorld {
  readonly lines: { details: Record<string, unknown>; message: string }[] = [];
  #dir: Awaited<ReturnType<typeof tempDir>> | null = null;
  #router: TestRouter | null = null;
  control!: FakeControl;
  bridge!: StdioBridge;

  constructor() {
    beforeEach(async () => {
      this.#dir = await tempDir();
      this.lines.length = 0;
    });
    afterEach(async () => {
      const pids = this.bridge.pids();
      await this.#router?.close(0);
      assert.deepEqual(
        pids.filter((pid) => !dead(pid)),
        [],
        "no process outlives its router",
      );
      assert.deepEqual(this.#router?.problems, []);
      await this.#dir?.remove();
    });
  }

  get url(): URL {
    return (this.#router as TestRouter).mcpUrl;
  }
  get writesFile(): string {
    return join(this.#dir?.path ?? "", "writes");
  }
  get writes(): string {
    return readFileSync(this.writesFile, "utf8");
  }

  async start(endpoints: Parameters<typeof fakeControl>[0], limits: Partial<StdioLimits> = {}): Promise<void> {
    const log = (details: object, message: string): void => {
      this.lines.push({ details: details as Record<string, unknown>, message });
    };
    this.bridge = createStdioBridge({
      allow,
      baseEnv: { PATH: process.env["PATH"] ?? "" },
      log: { debug: log, info: log, warn: log, error: log },
      nowMs: () => Date.now(),
      limits: { stopMs: 300, ...limits },
    });
    this.control = fakeControl(endpoints);
    this.#router = await startTestRouter(this.control, { bridges: { stdio: this.bridge } });
  }
}
