import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { JSONWebKeySet } from "jose";
import { z } from "zod";
import type { KeySetStore } from "./key-sets.ts";

const kept = z.record(z.string(), z.object({ keys: z.array(z.record(z.string(), z.unknown())) }));

/** Keeps the last good key sets in a file; they hold public keys alone. Written whole and then renamed. */
export function keySetFile(path: string): KeySetStore {
  let writes = 0;
  return {
    async load() {
      let text: string;
      try {
        text = await readFile(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
        throw error;
      }
      return kept.parse(JSON.parse(text)) as Readonly<Record<string, JSONWebKeySet>>;
    },
    async save(sets) {
      await mkdir(dirname(path), { recursive: true });
      const mine = `${path}.${process.pid}.${++writes}`;
      await writeFile(mine, JSON.stringify(sets), { mode: 0o600 });
      await rename(mine, path);
    },
  };
}
