import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import type { Bus } from "@mcp-failover/bus";
import { hashOf, topology } from "@mcp-failover/contracts";
import type { ReadModel } from "@mcp-failover/domain";
import { z } from "zod";

/** Raised when the read model has other fields than before: a backup of another format is not used. */
const format = 3;
/** A backup is used only if it is whole: the hash of the model is kept beside it. */
const backupFile = z.object({
  format: z.literal(format),
  hash: z.string(),
  model: z.looseObject({
    seq: z.number(),
    last: z.object({ id: z.string(), atMs: z.number() }).nullable(),
    generation: z.number(),
    configVersion: z.number(),
    topology: topology.nullable(),
  }),
});

const bucketName = "state-backup";
const bucketKey = "read-model";
/** A value of the bucket has to stay under the server's 1 MiB; a larger model is on disk alone. */
const bucketBytesMax = 900 * 1024;
/** What the backup in the bucket keeps of each upstream's history. */
const bucketHistoryMax = 50;

/** What was found where a backup is kept. */
export type Backup =
  | { readonly kind: "none" }
  | { readonly kind: "found"; readonly model: ReadModel }
  /** Something is there, but it is not whole. */
  | { readonly kind: "refused"; readonly reason: string };

/** Reads a backup's text; whatever is not exactly what was written is refused. */
export function decodeBackup(text: string): Backup {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return { kind: "refused", reason: "it is not JSON" };
    throw error;
  }
  const parsed = backupFile.safeParse(json);
  if (!parsed.success) return { kind: "refused", reason: `it is not a backup of format ${format}` };
  const { model } = json as { model: ReadModel };
  if (hashOf(model) !== parsed.data.hash) return { kind: "refused", reason: "its hash does not fit: it was altered or cut off" };
  return { kind: "found", model };
}

/** A backup's text. Nothing else runs while it is made: 0.4 s at 10,000 endpoints. */
export function encodeBackup(model: ReadModel): string {
  return JSON.stringify({ format, hash: hashOf(model), model });
}

/** As {@link encodeBackup}, with as much of each history as the bucket keeps. */
export function encodeBucketBackup(model: ReadModel): string {
  const history = Object.fromEntries(Object.entries(model.history).map(([name, records]) => [name, records.slice(0, bucketHistoryMax)]));
  return encodeBackup({ ...model, history });
}

/** Replaces the file at once or not at all: written beside it, synced, renamed. `writer` keeps instances on one folder apart. */
export async function writeDiskBackup(path: string, text: string, writer: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const draft = draftOf(path, writer);
  const file = await open(draft, "w", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
}

/** Removes what a crash of this writer left of a backup. Throws what the file system throws, but for a file that is not there. */
export async function removeDraft(path: string, writer: string): Promise<void> {
  await rm(draftOf(path, writer), { force: true });
}

function draftOf(path: string, writer: string): string {
  return `${path}.${writer}.new`;
}

/** Throws what the file system throws, but for a file that is not there. */
export async function readDiskBackup(path: string): Promise<Backup> {
  try {
    return decodeBackup(await readFile(path, "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { kind: "none" };
    throw error;
  }
}

/** Keeps the model in a JetStream bucket, for a state-store that starts on another machine. False: too large, on disk alone. */
export async function writeBucketBackup(bus: Bus, text: string): Promise<boolean> {
  if (Buffer.byteLength(text) > bucketBytesMax) return false;
  const bucket = await bus.bucket(bucketName, { maxValueBytes: bucketBytesMax });
  await bucket.put(bucketKey, text);
  return true;
}

export async function readBucketBackup(bus: Bus): Promise<Backup> {
  const bucket = await bus.bucket(bucketName, { maxValueBytes: bucketBytesMax });
  const found = await bucket.get(bucketKey);
  return found === null ? { kind: "none" } : decodeBackup(found.value);
}
