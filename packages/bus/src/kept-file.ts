import { randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** Writes a file that is its owner's alone, and always either as it was or whole, also when this process dies. Throws what the disk says, and leaves nothing behind. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}-${randomUUID().slice(0, 8)}.tmp`;
  try {
    await writeFile(temporary, text, { flag: "wx", mode: 0o600 });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Nobody writes for so long: what is older was left by a process that was killed meanwhile. */
const leftoverMs = 60_000;
/** Of one look: the next start takes the rest. */
const sweptMax = 1000;

/** Removes what writes of a file left behind that were cut off. A folder that cannot be looked at is left alone: this is only for tidiness. */
async function sweepLeftovers(path: string): Promise<void> {
  const folder = dirname(path);
  const names = await readdir(folder).catch(() => []);
  const leftovers = names.filter((name) => name.startsWith(`${basename(path)}.`) && /\.\d+-[0-9a-f]{8}\.tmp$/.test(name));
  for (const name of leftovers.slice(0, sweptMax)) {
    const file = join(folder, name);
    const found = await stat(file).catch(() => null);
    if (found !== null && Date.now() - found.mtimeMs > leftoverMs) await rm(file, { force: true }).catch(() => undefined); // Another start took it.
  }
}

/** Changes that come closer together are written once. */
const debounceMs = 200;

export interface KeptFileOptions<T> {
  readonly path: string;
  /** Makes what was read into what is used. Throws on what cannot be used: another version, a damaged file. */
  readonly parse: (value: unknown) => T;
  readonly onProblem: (problem: "unreadable" | "unusable" | "unwritten", error: unknown) => void;
}

/**
 * One JSON file with what a process last knew of the log: what it begins with when the bus is out of reach. A file that cannot be read is none, and one that
 * cannot be written is a problem to tell, never one of a call.
 */
export class KeptFile<T> {
  readonly #options: KeptFileOptions<T>;
  #read: (() => unknown) | null = null;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(options: KeptFileOptions<T>) {
    this.#options = options;
  }

  /** Null: there is none that can be used. */
  async load(): Promise<T | null> {
    const { path, parse, onProblem } = this.#options;
    await sweepLeftovers(path);
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") onProblem("unreadable", error);
      return null;
    }
    try {
      return parse(JSON.parse(text));
    } catch (error) {
      onProblem("unusable", error);
      return null;
    }
  }

  /** Writes soon; `read` gives what is written when the time has come. */
  saveSoon(read: () => unknown): void {
    this.#read = read;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#writing = this.#writing.then(() => this.#write());
    }, debounceMs);
  }

  /** Writes what is pending, and waits for it. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
  }

  async #write(): Promise<void> {
    const { path, onProblem } = this.#options;
    const read = this.#read;
    this.#read = null;
    if (read === null) return;
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      await writeWhole(path, JSON.stringify(read()));
    } catch (error) {
      onProblem("unwritten", error);
    }
  }
}
