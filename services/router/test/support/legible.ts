import { inflateRawSync } from "node:zlib";

const prefix = "mcpf1.";
const outputBytesMax = 1024 * 1024;

/** What of a session id can be read without the key: its bytes as they are, and what can be unpacked from any of them on. */
export function legibleIn(id: string): string {
  const bytes = Buffer.from(id.startsWith(prefix) ? id.slice(prefix.length) : id, "base64url");
  const unpacked = Array.from({ length: Math.min(bytes.length, 64) }, (_, offset) => {
    try {
      return inflateRawSync(bytes.subarray(offset), { maxOutputLength: outputBytesMax }).toString("latin1");
    } catch {
      return ""; // Nothing packed begins here.
    }
  });
  return [id, bytes.toString("latin1"), ...unpacked].join("\n");
}
