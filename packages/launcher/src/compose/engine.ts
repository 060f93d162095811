import { request } from "node:http";
import { RefusedError } from "@mcp-failover/bus";

/** The engine did not do it; `status` is that of its answer, null where there was none, so that it may have done it. */
export class EngineError extends RefusedError {
  readonly status: number | null;
  constructor(message: string, status: number | null) {
    super("engine_failed", message, true);
    this.status = status;
  }
}

/** Asks the container engine; throws {@link EngineError}. */
export type Engine = (method: "GET" | "POST", path: string) => Promise<unknown>;

const usualSocket = "unix:///var/run/docker.sock";
const waitMsMax = 30_000;
const bytesMax = 8 * 1024 * 1024;

/** The engine at a socket of this machine, asked without its client: a process a question would be too slow on a busy machine. */
export function openEngine(host = usualSocket): Engine {
  if (!host.startsWith("unix://")) throw new RangeError(`DOCKER_HOST is ${host}: only an engine on this machine, unix:///..., can be used`);
  const socketPath = host.slice("unix://".length);
  return (method, path) =>
    new Promise((resolve, reject) => {
      const fail = (why: string, status: number | null = null): void =>
        reject(new EngineError(`the container engine at ${socketPath} did not do it: ${why}`, status));
      const asked = request({ socketPath, method, path, timeout: waitMsMax, agent: false }, (response) => {
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          text += chunk;
          if (text.length > bytesMax) asked.destroy(new Error("its answer is too long"));
        });
        response.on("error", (error) => fail(error.message));
        response.on("end", () => {
          // 304: it is as it was asked to be already.
          const { statusCode = 0 } = response;
          if (statusCode >= 300 && statusCode !== 304) return fail(`${statusCode} ${text.slice(0, 300)}`, statusCode);
          try {
            resolve(text === "" ? null : JSON.parse(text));
          } catch {
            fail("its answer is not JSON");
          }
        });
      });
      asked.on("timeout", () => asked.destroy(new Error(`no answer within ${waitMsMax} ms`)));
      asked.on("error", (error) => fail(error.message));
      asked.end();
    });
}
