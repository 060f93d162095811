import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

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
