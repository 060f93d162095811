import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { firstWords, type RunningServer, runServer } from "./server.ts";
import { findProgram, freePort, tempDir } from "./system.ts";

export interface NatsOptions {
  /** Where JetStream keeps its files; default a new folder that `stop` removes. */
  readonly storeDir?: string;
  readonly port?: number;
  /** What JetStream may keep on disk; default 16G. */
  readonly maxFileStore?: string;
  /** More lines for the server's configuration file. */
  readonly config?: string;
  /** Default: `NATS_SERVER_BIN`, else nats-server on PATH. */
  readonly binary?: string;
}

/** Starts a nats-server with JetStream on a free port of 127.0.0.1. */
export async function startNats(options: NatsOptions = {}): Promise<RunningServer> {
  const port = options.port ?? (await freePort());
  const dir = await tempDir("mcpf-nats-");
  const file = join(dir.path, "nats.conf");
  const lines = [
    `host: "127.0.0.1"`,
    `port: ${port}`,
    // The streams' limits add up to more than a small disk has; the server would refuse to reserve them.
    `jetstream { store_dir: ${JSON.stringify(options.storeDir ?? join(dir.path, "store"))}, max_file_store: ${options.maxFileStore ?? "16G"} }`,
    options.config ?? "",
  ];
  await writeFile(file, `${lines.join("\n")}\n`);
  return runServer({
    program: options.binary ?? findProgram("nats-server", "NATS_SERVER_BIN"),
    args: ["-c", file],
    url: `nats://127.0.0.1:${port}`,
    port,
    // The server listens only after JetStream has recovered, and greets with its INFO.
    ready: async () => {
      const info = await firstWords(port);
      if (!info.startsWith("INFO ") || !info.includes('"jetstream":true')) throw new Error("no JetStream yet");
    },
    cleanup: dir.remove,
  });
}
