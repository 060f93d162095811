import { BusError } from "../bus.ts";
import { type ObjectPort, objectBucketBytesMax } from "../claim-check.ts";
import type { MemoryLink } from "./link.ts";

/** The object store of a memory broker, as one connection sees it. */
export function memoryObjects(objects: Map<string, Uint8Array>, link: MemoryLink): ObjectPort {
  return {
    async get(name) {
      await link.reach();
      return objects.get(name) ?? null;
    },
    async put(name, bytes) {
      await link.reach();
      const used = [...objects.values()].reduce((sum, one) => sum + one.length, 0);
      if (used + bytes.length > objectBucketBytesMax)
        throw new BusError("stream_full", "there is no room for one more object", { retriable: false });
      objects.set(name, bytes.slice());
    },
    sleep: (ms) => link.sleep(ms),
  };
}
