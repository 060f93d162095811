/** Cuts what a process writes into lines. A line longer than `bytesMax` is told once, by `onLong`, and skipped. */
export class LineReader {
  readonly #bytesMax: number;
  readonly #onLine: (line: string) => void;
  readonly #onLong: () => void;
  #parts: Buffer[] = [];
  #bytes = 0;
  #skipping = false;

  constructor(bytesMax: number, onLine: (line: string) => void, onLong: () => void) {
    this.#bytesMax = bytesMax;
    this.#onLine = onLine;
    this.#onLong = onLong;
  }

  feed(chunk: Buffer): void {
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      this.#keep(chunk.subarray(from, at));
      this.#end();
      from = at + 1;
    }
    this.#keep(chunk.subarray(from));
  }

  #keep(part: Buffer): void {
    if (this.#skipping || part.length === 0) return;
    this.#bytes += part.length;
    if (this.#bytes > this.#bytesMax) {
      this.#parts = [];
      this.#skipping = true;
      this.#onLong();
      return;
    }
    this.#parts.push(part);
  }
  #end(): void {
    const text = this.#skipping ? "" : Buffer.concat(this.#parts, this.#bytes).toString("utf8").trim();
    this.#parts = [];
    this.#bytes = 0;
    this.#skipping = false;
    if (text !== "") this.#onLine(text);
  }
}
