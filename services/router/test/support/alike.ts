import fc from "fast-check";

const lengths = ["0", "4", "5", "6", "12", "05", "+5", "5 5", "", "99999999", "0x5", " 5"];
const lengthPattern = /(content-length:[ \t]*)\d+/i;

/** Bytes of HTTP and beside them the same with another length, or with another byte somewhere. */
export function alike(messages: fc.Arbitrary<Buffer>): fc.Arbitrary<readonly [Buffer, Buffer]> {
  return fc
    .tuple(messages, fc.constantFrom(...lengths), fc.nat(400), fc.nat(255), fc.boolean())
    .map(([bytes, digits, place, byte, isLength]) => {
      if (isLength) return [bytes, Buffer.from(bytes.toString("latin1").replace(lengthPattern, `$1${digits}`), "latin1")] as const;
      const other = Buffer.from(bytes);
      if (other.length > 0) other[place % other.length] = byte;
      return [bytes, other] as const;
    });
}
