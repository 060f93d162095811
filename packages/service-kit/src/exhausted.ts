import { isIP } from "node:net";
import os from "node:os";

/** What a process and its machine run out of, by the codes of Node. https://man7.org/linux/man-pages/man2/connect.2.html */
const resources: Readonly<Record<string, string>> = {
  EMFILE: "files that this process may open",
  ENFILE: "files that may be open",
  ENOMEM: "memory",
  EAI_MEMORY: "memory",
  ENOBUFS: "buffers of the network",
  EADDRNOTAVAIL: "ports for more connections there",
};
const depthMax = 4;

/** What this machine has run out of, where a transport error says nothing else; null: it tells of the endpoint, or of what lies between. */
export function exhaustedBy(error: unknown): string | null {
  for (let inner = error, depth = 0; inner instanceof Error && depth < depthMax; inner = inner.cause, depth += 1) {
    // Of several addresses each failed by itself: one that was refused is an answer.
    if (inner instanceof AggregateError && inner.errors.length > 0) {
      const each = inner.errors.map(exhaustedBy);
      return each.includes(null) ? null : (each[0] ?? null);
    }
    const { code = "", address } = inner as NodeJS.ErrnoException & { readonly address?: string };
    const what = Object.hasOwn(resources, code) ? resources[code] : undefined;
    if (what === undefined) continue;
    return code === "EADDRNOTAVAIL" && !hasAddressFor(address) ? null : `${what} (${code})`;
  }
  return null;
}

/** Linux says the same where there is no address to come from: on a machine without IPv6, an address of IPv6 is out of reach, and nothing has run out. */
function hasAddressFor(address: string | undefined): boolean {
  if (address === undefined || isIP(address) !== 6) return true;
  const isLocal = address === "::1";
  return Object.values(os.networkInterfaces()).some((list) =>
    list?.some(({ family, internal, address: own }) => family === "IPv6" && internal === isLocal && !own.startsWith("fe80:")),
  );
}
