/** A head is not remembered where it is longer: what a connection keeps has a limit. */
const headBytesMax = 4 * 1024;
/** A connection that says something else each time (a proxy's, one with a trace in each request) is not remembered any more. */
const missesMax = 4;
const digitsMax = 7;

/**
 * The last head that came on a connection, by its bytes, and what was read in it. Nearly all that comes on one connection says the same but for the
 * length of its body. Guarantees:
 * M1  What matches has the same bytes as a head that was read, but for the digits of its length, which stand at the same place: it can mean nothing else.
 * M2  A length is canonical here: up to seven digits without a zero before them. Every other one is read as if nothing was known.
 */
export class KnownHead<T> {
  #bytes: Buffer | null = null;
  #digitsFrom = 0;
  #digitsTo = 0;
  #read: T | null = null;
  #misses = 0;
  /** Of the head that matched last; without meaning where it has none. */
  length = 0;

  /** What was read in the head that `bytes` has at `from` to `end`; null: it is to be read. */
  match(bytes: Buffer, from: number, end: number): T | null {
    const known = this.#bytes;
    if (known === null) return null;
    const digits = end - from - known.length + (this.#digitsTo - this.#digitsFrom);
    const at = from + this.#digitsFrom;
    const isSame =
      this.#isLength(bytes, at, digits) &&
      known.compare(bytes, from, at, 0, this.#digitsFrom) === 0 &&
      known.compare(bytes, at + digits, end, this.#digitsTo) === 0;
    if (isSame) {
      this.#misses = 0;
      return this.#read;
    }
    this.#misses += 1;
    this.#bytes = null;
    this.#read = null;
    return null;
  }

  /** `digitsFrom` and `digitsTo`, counted from the head's begin, are equal where it has no length. */
  learn(bytes: Buffer, from: number, end: number, digitsFrom: number, digitsTo: number, read: T): void {
    if (this.#misses >= missesMax || end - from > headBytesMax) return;
    // The bytes are the reader's only until it returns.
    this.#bytes = Buffer.from(bytes.subarray(from, end));
    this.#digitsFrom = digitsFrom;
    this.#digitsTo = digitsTo;
    this.#read = read;
  }

  #isLength(bytes: Buffer, at: number, digits: number): boolean {
    if (this.#digitsFrom === this.#digitsTo) return digits === 0;
    if (digits < 1 || digits > digitsMax || (digits > 1 && bytes[at] === 0x30)) return false;
    let length = 0;
    for (let index = at; index < at + digits; index += 1) {
      const digit = (bytes[index] as number) - 0x30;
      if (!(digit >= 0 && digit <= 9)) return false;
      length = length * 10 + digit;
    }
    this.length = length;
    return true;
  }
}
