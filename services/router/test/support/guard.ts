import { RefusedRequest } from "../../src/errors.ts";
import type { Guard } from "../../src/identity/guard.ts";
import type { Principal } from "../../src/identity/principal.ts";

/** Lets in whoever shows one of these as its `Authorization`. */
export function guardOf(known: ReadonlyMap<string, Principal>): Guard {
  return {
    identify({ authorization }) {
      const principal = known.get(authorization ?? "");
      if (principal === undefined) throw new RefusedRequest(401, -32000, "who are you?");
      return principal;
    },
    metadata: () => null,
  };
}
