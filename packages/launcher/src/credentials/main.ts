import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { makeCredentials } from "./make-credentials.ts";

const usage = `usage: npm run dev:credentials -- [--folder DIR] [--rotate | --retire] [--owner UID[:GID]] [--host NAME]...

  --folder DIR   where they lie (default .mcpf/credentials)
  --rotate       a new key and certificate for everybody; the keys before stay valid
  --retire       the keys before are valid no longer; services that still use them are cut off
  --owner        who shall own the files, for containers that run as another user (needs root)
  --host NAME    one more name or address of nats-server, for its certificate

After --rotate or --retire let nats-server read its configuration again: nats-server --signal reload=PID, or SIGHUP.
`;

process.exitCode = main();

function main(): number {
  try {
    const { values } = parseArgs({
      options: {
        folder: { type: "string" },
        rotate: { type: "boolean" },
        retire: { type: "boolean" },
        owner: { type: "string" },
        host: { type: "string", multiple: true },
        help: { type: "boolean", short: "h" },
      },
    });
    if (values.help) {
      process.stdout.write(usage);
      return 0;
    }
    if (values.rotate && values.retire) throw new TypeError("--rotate and --retire are two steps: first the one, later the other");
    const owner = values.owner?.split(":").map(Number);
    if (owner?.some((id) => !Number.isInteger(id) || id < 0))
      throw new TypeError(`--owner ${values.owner}: give a number, or two with ":" between`);
    const [uid, gid] = owner ?? [];
    const folder = resolve(process.env["INIT_CWD"] ?? process.cwd(), values.folder ?? ".mcpf/credentials");
    const { made } = makeCredentials({
      folder,
      nowMs: Date.now(),
      hosts: values.host ?? [],
      ...(values.rotate ? { change: "rotate" as const } : values.retire ? { change: "retire" as const } : {}),
      ...(uid === undefined ? {} : { owner: { uid, gid: gid ?? uid } }),
    });
    process.stdout.write(made.length === 0 ? `${folder} has everything; nothing was changed\n` : `${folder}: made ${made.length} files\n`);
    return 0;
  } catch (error) {
    if (!(error instanceof TypeError) && (error as { code?: unknown }).code === undefined) throw error;
    process.stderr.write(`dev:credentials: ${(error as Error).message}\n`);
    return error instanceof TypeError ? 2 : 1;
  }
}
