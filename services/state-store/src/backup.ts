import { mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname } from "node:path";
import type { Bus } from "@mcp-failover/bus";
import { hashOf, topology } from "@mcp-failover/contracts";
import type { ReadModel } from "@mcp-failover/domain";
import { z } from "zod";

/** A backup is used only if it is whole: the hash of the model is kept beside it. */
const backupFile = z.object({
  format: z.literal(1),
  hash: z.string(),
  model: z.looseObject({ seq: z.number(), generation: z.number(), configVersion: z.number(), topology: topology.nullable() }),
});

const bucketName = "state-backup";
const bucketKey = "read-model";
/** A value of the bucket has to stay under the server's 1 MiB; a larger model is on disk alone. */
const bucketBytesMax = 900 * 1024;
/** What the backup in the bucket keeps of each upstream's history. */
const bucketHistoryMax = 50;

function encode(model: ReadModel): string {
  return JSON.stringify({ format: 1, hash: hashOf(model), model });
}

/** Null when the text is not a whole backup. */
function decodeBackup(text: string): ReadModel | null {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
  const parsed = backupFile.safeParse(json);
  if (!parsed.success) return null;
  const model = (json as { model: ReadModel }).model;
  return hashOf(model) === parsed.data.hash ? model : null;
}

/** Replaces the file at once or not at all: written beside it, synced, renamed. */
export async function writeDiskBackup(path: string, model: ReadModel): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(`${path}.new`, "w", 0o600);
  try {
    await file.writeFile(encode(model));
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}

export async function readDiskBackup(path: string): Promise<ReadModel | null> {
  try {
    return decodeBackup(await readFile(path, "utf8"));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Keeps the model in a JetStream bucket, for a state-store that starts on another machine. False: too large, on disk alone. */
export async function writeBucketBackup(bus: Bus, model: ReadModel): Promise<boolean> {
  const history = Object.fromEntries(Object.entries(model.history).map(([name, records]) => [name, records.slice(0, bucketHistoryMax)]));
  const text = encode({ ...model, history });
  if (Buffer.byteLength(text) > bucketBytesMax) return false;
  const bucket = await bus.bucket(bucketName, { maxValueBytes: bucketBytesMax });
  await bucket.put(bucketKey, text);
  return true;
}

export async function readBucketBackup(bus: Bus): Promise<ReadModel | null> {
  const bucket = await bus.bucket(bucketName, { maxValueBytes: bucketBytesMax });
  const found = await bucket.get(bucketKey);
  return found === null ? null : decodeBackup(found.value);
}
