import { hashText } from "./string-hash.ts";

/**
 * Which of the live members owns a key: highest random weight (Thaler and Ravishankar, 1998). Nobody has to talk about it.
 *
 * R1  Every key has exactly one owner as long as there is a member, and everybody with the same view names the same one.
 * R2  The order in which members are listed, and repeats, change nothing.
 * R3  Taking a member away moves only the keys that it owned; adding one moves keys only to it.
 * R4  Keys spread evenly: with n members each owns about 1/n of them.
 */
export function ownerOf(key: string, members: Iterable<string>): string | null {
  let owner: string | null = null;
  let best = -1;
  for (const member of members) {
    const weight = hashText(`${member}\u0000${key}`);
    if (weight > best || (weight === best && owner !== null && member < owner)) {
      best = weight;
      owner = member;
    }
  }
  return owner;
}
