import { randomBytes } from "node:crypto";
import { link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

/**
 * The secret that seals session ids: given, or from a file that all router processes of one data directory share. Of several processes
 * that start at once, one makes the file: it is written whole under a name of its own and then linked, which fails when it is there.
 */
export async function sessionSecret(given: string | undefined, dataDir: string): Promise<string> {
  if (given !== undefined) return given;
  const file = join(dataDir, "router", "session.key");
  const before = await read(file);
  if (before !== null) return before;
  await mkdir(dirname(file), { recursive: true });
  const mine = `${file}.${randomBytes(6).toString("hex")}`;
  await writeFile(mine, randomBytes(32).toString("base64url"), { mode: 0o600 });
  try {
    await link(mine, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    await rm(mine, { force: true });
  }
  const secret = await read(file);
  if (secret === null) throw new Error(`${file} was there and is gone: nothing but routers may write in this folder`);
  return secret;
}

async function read(file: string): Promise<string | null> {
  try {
    const text = (await readFile(file, "utf8")).trim();
    if (text.length < 16) throw new Error(`${file} is damaged: remove it, and open sessions start anew`);
    return text;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
