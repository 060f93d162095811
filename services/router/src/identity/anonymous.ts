import type { Socket } from "node:net";
import type { Principal } from "./principal.ts";

const addressesMax = 10_000;

/**
 * Those who do not have to say who they are: all the same in what they may do, told apart by their address in what each may hold. What a
 * proxy says of addresses behind it is not believed, because everybody can say it.
 */
export function anonymousOf(base: Principal): (socket: Socket | null | undefined) => Principal {
  const known = new Map<string, Principal>();
  return (socket) => {
    const address = socket?.remoteAddress;
    if (address === undefined) return base;
    let principal = known.get(address);
    if (principal === undefined) {
      // Made again at once for those who are still there.
      if (known.size >= addressesMax) known.clear();
      principal = { ...base, holder: `address:${networkOf(address)}` };
      known.set(address, principal);
    }
    return principal;
  };
}

/** The address, or for IPv6 the first half of it: one machine can call from any address of its network (RFC 4291, 2.5.1; RFC 8981). */
function networkOf(address: string): string {
  if (address.includes(".")) return address.slice(address.lastIndexOf(":") + 1);
  const [plain = ""] = address.split("%", 1);
  const [before = "", after] = plain.split("::", 2);
  const first = before === "" ? [] : before.split(":");
  const last = after === undefined || after === "" ? [] : after.split(":");
  const zeros = after === undefined ? [] : new Array<string>(Math.max(0, 8 - first.length - last.length)).fill("0");
  return [...first, ...zeros, ...last].slice(0, 4).join(":");
}
