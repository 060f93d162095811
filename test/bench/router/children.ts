import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { node24 } from "../../../scripts/lib/repo.mjs";
import { pinned } from "../prober/machine.ts";
import type { Load, Loaded } from "./loader.ts";

const answerMs = 60_000;

/** A program of the benchmark that runs beside what is measured, and is spoken to by messages. */
export class Helper {
  readonly #child: ChildProcess;
  readonly #name: string;
  constructor(file: string, args: readonly string[] = []) {
    this.#name = file;
    // Compiler and collector of their own threads would take turns with what makes the calls, milliseconds at a time.
    const [program, words] = pinned("others", node24(), ["--single-threaded", fileURLToPath(new URL(file, import.meta.url)), ...args]);
    this.#child = spawn(program, words, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  /** Waits for a message of a kind. Throws when the program ends or says nothing. */
  async heard<T extends { readonly kind: string }>(kind: T["kind"]): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timer = setTimeout(() => reject(new Error(`${this.#name} said nothing for ${answerMs} ms`)), answerMs);
    const onMessage = (message: unknown): void => {
      if ((message as T).kind === kind) resolve(message as T);
    };
    const onExit = (code: number | null): void => reject(new Error(`${this.#name} ended with ${code}`));
    this.#child.on("message", onMessage);
    this.#child.on("exit", onExit);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#child.off("message", onMessage);
      this.#child.off("exit", onExit);
    }
  }

  say(message: object): void {
    this.#child.send(message);
  }

  async load(load: Load): Promise<Loaded> {
    const loaded = this.heard<Loaded>("loaded");
    this.say(load);
    return loaded;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.disconnect();
    await once(this.#child, "exit");
  }
}
