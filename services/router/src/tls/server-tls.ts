import { readFile, stat } from "node:fs/promises";
import { createSecureContext, type SecureContextOptions } from "node:tls";

/** TLS of the router's own port. New files are taken by the next connection; those that stand go on with what they were made with. */
export interface ServerTls {
  readonly options: SecureContextOptions & { readonly requestCert: boolean; readonly rejectUnauthorized: boolean };
  onChange(listener: (options: SecureContextOptions) => void): void;
  stop(): void;
}
export interface ServerTlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** Clients have to show a certificate of one of these authorities. */
  readonly clientCaFile?: string | undefined;
}

/** Files that are mounted and swapped by link tell no watcher reliably, so they are looked at. */
const lookEveryMs = 2000;

/** Throws when the files cannot be used at the start; later the last good ones stay, and `onTrouble` is told. */
export async function watchServerTls(
  files: ServerTlsFiles,
  onTrouble: (error: unknown) => void,
  everyMs = lookEveryMs,
): Promise<ServerTls> {
  const paths = [files.certFile, files.keyFile, ...(files.clientCaFile === undefined ? [] : [files.clientCaFile])];
  const stampOf = async (): Promise<string> => {
    const stats = await Promise.all(paths.map((path) => stat(path)));
    return stats.map(({ mtimeMs, size, ino }) => `${mtimeMs}/${size}/${ino}`).join(" ");
  };
  const load = async (): Promise<SecureContextOptions> => {
    const [cert, key, ca] = await Promise.all(paths.map((path) => readFile(path)));
    const options = { cert, key, ...(ca === undefined ? {} : { ca }) };
    // A certificate and a key that do not fit throw here, before anybody is served with them.
    createSecureContext(options);
    return options;
  };
  const listeners = new Set<(options: SecureContextOptions) => void>();
  let stamp = await stampOf();
  const first = await load();
  let looking = false;
  const look = async (): Promise<void> => {
    const now = await stampOf();
    if (now === stamp) return;
    const options = await load();
    stamp = now;
    for (const listener of listeners) listener(options);
  };
  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    look()
      .catch(onTrouble)
      .finally(() => {
        looking = false;
      });
  }, everyMs);
  timer.unref();
  const asked = files.clientCaFile !== undefined;
  return {
    options: { ...first, requestCert: asked, rejectUnauthorized: asked },
    onChange: (listener) => void listeners.add(listener),
    stop: () => clearInterval(timer),
  };
}
