import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { writeWhole } from "@mcp-failover/bus";
import * as z from "zod";
import { type Engine, EngineError } from "./engine.ts";

/** Containers that were killed and are to be started again: the engine does not, whatever their restart policy says. */
export interface OwedStarts {
  /**
   * Has a container started `inMs` after this. Resolves when that is on record, so that a process that ends does not leave the container dead for ever;
   * rejects when it cannot be, and then it is not owed.
   */
  owe(container: { readonly id: string; readonly name: string }, inMs: number): Promise<void>;
  /** It is not started until this has settled: a start that comes before the end of a kill does nothing. */
  after(id: string, killed: Promise<unknown>): void;
  /** Starts it now, whether that is owed or not. Throws {@link EngineError}. */
  start(id: string): Promise<void>;
  forget(id: string): Promise<void>;
  /** Starts all that is owed, now. False when some could not be; they stay on record. */
  settle(): Promise<boolean>;
}

const owedStart = z.object({ id: z.string(), name: z.string(), atMs: z.number() });
type OwedStart = z.infer<typeof owedStart> & { timer?: NodeJS.Timeout; killed?: Promise<unknown>; tries: number };

/** Pauses while the engine does not do it: a second, doubling to half a minute; given up after about an hour. */
const againMs = { first: 1000, max: 30_000 } as const;
const triesMax = 120;
/** No lease is longer; a clock that was put back does not keep one waiting for longer either. */
const waitMsMax = 3_600_000;

/** Goes on with what is on record in `file`. Throws what the disk says. */
export function openOwedStarts(options: {
  readonly file: string;
  readonly engine: Engine;
  readonly say: (text: string) => void;
}): OwedStarts {
  const { file, engine, say } = options;
  const owed = new Map<string, OwedStart>();
  let saving: Promise<void> = Promise.resolve();
  const save = (): Promise<void> => {
    const saved = saving.then(async () => {
      await mkdir(dirname(file), { recursive: true });
      await writeWhole(file, `${JSON.stringify([...owed.values()].map(({ id, name, atMs }) => ({ id, name, atMs })))}\n`);
    });
    saving = saved.catch(() => undefined);
    return saved;
  };
  const drop = async (one: OwedStart): Promise<void> => {
    clearTimeout(one.timer);
    // Killed once more meanwhile: then it is that start which is owed.
    if (owed.get(one.id) !== one) return;
    owed.delete(one.id);
    await save().catch((error: Error) =>
      say(`${file} cannot be written (${error.message}): the next start of this starts ${one.name} once more`),
    );
  };
  const startOwed = async (one: OwedStart): Promise<void> => {
    await one.killed?.catch(() => undefined);
    try {
      await engine("POST", `/containers/${one.id}/start`);
    } catch (error) {
      if (!(error instanceof EngineError && error.status === 404)) throw error;
      say(`${one.name} was removed since it was killed`);
    }
    await drop(one);
  };
  const schedule = (one: OwedStart, inMs: number): void => {
    one.timer = setTimeout(() => {
      startOwed(one).catch((error: Error) => {
        if (owed.get(one.id) !== one) return;
        one.tries += 1;
        if (one.tries < triesMax) schedule(one, Math.min(againMs.max, againMs.first * 2 ** Math.min(one.tries - 1, 20)));
        else say(`${one.name} is down and cannot be started again: ${error.message}; the next start of this tries it once more`);
      });
    }, inMs);
  };
  for (const found of readRecord(file, say)) {
    const one = { ...found, tries: 0 };
    owed.set(one.id, one);
    schedule(one, Math.min(waitMsMax, Math.max(0, one.atMs - Date.now())));
  }
  return {
    async owe({ id, name }, inMs) {
      const before = owed.get(id);
      clearTimeout(before?.timer);
      const one = { id, name, atMs: Date.now() + inMs, tries: 0 };
      owed.set(id, one);
      schedule(one, inMs);
      try {
        await save();
      } catch (error) {
        clearTimeout(owed.get(id)?.timer);
        owed.delete(id);
        throw error;
      }
    },
    after(id, killed) {
      const one = owed.get(id);
      if (one !== undefined) one.killed = killed;
    },
    async start(id) {
      const one = owed.get(id);
      if (one === undefined) await engine("POST", `/containers/${id}/start`);
      else await startOwed(one);
    },
    async forget(id) {
      const one = owed.get(id);
      if (one !== undefined) await drop(one);
    },
    async settle() {
      const all = [...owed.values()];
      for (const one of all) clearTimeout(one.timer);
      const settled = await Promise.allSettled(all.map(startOwed));
      settled.forEach((how, index) => {
        if (how.status === "rejected")
          say(
            `${all[index]?.name} is down and could not be started again: ${(how.reason as Error).message}; the next start of this does it`,
          );
      });
      await saving;
      return settled.every((how) => how.status === "fulfilled");
    },
  };
}

function readRecord(file: string, say: (text: string) => void): z.infer<typeof owedStart>[] {
  try {
    return z.array(owedStart).parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    if (!(error instanceof SyntaxError || error instanceof z.ZodError)) throw error;
    say(`${file} is damaged: whatever was killed by request before stays as it is`);
    return [];
  }
}
