/**
 * Reads of a JSON-RPC message what the router goes by, without making anything of the rest: to parse a message whole costs a small call more
 * than all that is decided for it.
 *
 * M1  What it says of a text is what `JSON.parse` says; it takes nothing that `JSON.parse` refuses. Where it is not sure (escapes in names, a name that
 *     stands twice, an id that is no plain text or number, an error, deep nesting) it says nothing, and the message is parsed.
 */
export interface Outline {
  readonly id: string | number | undefined;
  readonly method: string | undefined;
  /** Where the object of `params` lies; null: there is none. */
  readonly params: Span | null;
  /** `params.name`, where it is a text. */
  readonly name: string | null;
  /** Where `params._meta` lies. */
  readonly meta: Span | null;
  /** There is a `result`, and it is an object. */
  readonly isResult: boolean;
  readonly isError: boolean;
  /** The result has none of what is remembered of results: a task, the cursor of a list, the state of a call. */
  readonly isPlain: boolean;
}

/** Of the first byte, and of the one after the last. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** Null: it is to be parsed. */
export function outlineOf(bytes: Buffer): Outline | null {
  return new Reader(bytes).read();
}

const depthMax = 64;
/** Longer ids and names are rare, and parsed. */
const charsMax = 256;
/** So many digits are exact. */
const digitsMax = 15;

/** No byte: behind the end. */
const end = -1;
/** No key of those that are asked for, and no key at all. */
const [other, over] = [-1, -2];
const topKeys = ["jsonrpc", "id", "method", "params", "result", "error"];
const paramKeys = ["name", "_meta"];
const resultKeys = ["isError", "task", "taskId", "nextCursor", "requestState"];
/** By their lengths. */
const keptTexts = new Array<string>(64).fill("");
const [quote, backslash, comma, colon, minus, zero] = [0x22, 0x5c, 0x2c, 0x3a, 0x2d, 0x30];
const [openBrace, closeBrace, openBracket, closeBracket] = [0x7b, 0x7d, 0x5b, 0x5d];

class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  /** Set where it is not sure. */
  #unsure = false;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  read(): Outline | null {
    let isVersion: boolean | undefined;
    let id: string | number | undefined;
    let method: string | undefined;
    let params: Params | undefined;
    let result: Result | undefined;
    this.#space();
    if (this.#peek() !== openBrace) return null;
    for (let key = this.#firstKey(topKeys); key !== over && !this.#unsure; key = this.#nextKey(topKeys)) {
      switch (key) {
        case 0:
          this.#once(isVersion);
          isVersion = this.#text() === "2.0";
          break;
        case 1:
          this.#once(id);
          id = this.#peek() === quote ? this.#text() : this.#wholeNumber();
          break;
        case 2:
          this.#once(method);
          method = this.#text();
          break;
        case 3:
          this.#once(params);
          params = this.#params();
          break;
        case 4:
          this.#once(result);
          result = this.#result();
          break;
        case 5:
          this.#unsure = true;
          break;
        default:
          this.#value(1);
      }
    }
    this.#space();
    if (this.#unsure || this.#at !== this.#bytes.length || isVersion !== true) return null;
    return {
      id,
      method,
      params: params?.span ?? null,
      name: params?.name ?? null,
      meta: params?.meta ?? null,
      isResult: result !== undefined,
      isError: result?.isError === true,
      isPlain: result?.isPlain !== false,
    };
  }

  #params(): Params {
    const from = this.#at;
    let name: string | undefined;
    let meta: Span | undefined;
    if (this.#peek() !== openBrace) this.#unsure = true;
    for (let key = this.#firstKey(paramKeys); key !== over && !this.#unsure; key = this.#nextKey(paramKeys)) {
      if (key === 0) {
        this.#once(name);
        name = this.#text();
      } else if (key === 1) {
        this.#once(meta);
        const metaFrom = this.#at;
        this.#value(2);
        meta = { from: metaFrom, to: this.#at };
      } else this.#value(2);
    }
    return { span: { from, to: this.#at }, name: name ?? null, meta: meta ?? null };
  }

  #result(): Result {
    let isError: boolean | undefined;
    let isPlain = true;
    if (this.#peek() !== openBrace) this.#unsure = true;
    for (let key = this.#firstKey(resultKeys); key !== over && !this.#unsure; key = this.#nextKey(resultKeys)) {
      if (key === 0) {
        this.#once(isError);
        isError = this.#peek() === 0x74;
      } else if (key > 0) isPlain = false;
      this.#value(2);
    }
    return { isError: isError ?? false, isPlain };
  }

  /** A name that stands twice means the last one to `JSON.parse`, and perhaps not to others. */
  #once(known: unknown): void {
    if (known !== undefined) this.#unsure = true;
  }

  #peek(): number {
    return this.#at < this.#bytes.length ? (this.#bytes[this.#at] as number) : end;
  }

  #space(): void {
    for (let byte = this.#peek(); byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09; byte = this.#peek()) this.#at++;
  }

  /** From the brace to behind the colon of the first key, as its place among `keys`; {@link over}: the object is empty, and read. */
  #firstKey(keys: readonly string[]): number {
    this.#at++;
    this.#space();
    if (this.#peek() !== closeBrace) return this.#key(keys);
    this.#at++;
    return over;
  }

  /** From behind a value. */
  #nextKey(keys: readonly string[]): number {
    this.#space();
    const byte = this.#peek();
    this.#at++;
    if (byte === closeBrace) return over;
    if (byte !== comma) this.#unsure = true;
    this.#space();
    return this.#key(keys);
  }

  #key(keys: readonly string[]): number {
    const from = this.#at + 1;
    this.#plainText();
    const to = this.#at - 1;
    this.#space();
    if (this.#peek() !== colon) this.#unsure = true;
    this.#at++;
    this.#space();
    for (let index = 0; index < keys.length; index++) if (isText(this.#bytes, from, to, keys[index] as string)) return index;
    return other;
  }

  /** A text without escapes, of visible ASCII. */
  #text(): string {
    const from = this.#at + 1;
    this.#plainText();
    const to = this.#at - 1;
    if (this.#unsure) return "";
    // Mostly it is one of a few: a text that is there need not be made, and is found in maps without being read again.
    const kept = keptTexts[(to - from) % keptTexts.length] as string;
    if (isText(this.#bytes, from, to, kept)) return kept;
    const text = this.#bytes.toString("latin1", from, to);
    keptTexts[(to - from) % keptTexts.length] = text;
    return text;
  }

  #plainText(): void {
    const bytes = this.#bytes;
    if (this.#peek() !== quote) this.#unsure = true;
    for (let at = this.#at + 1; at < bytes.length && at - this.#at <= charsMax; at++) {
      const byte = bytes[at] as number;
      if (byte === quote) {
        this.#at = at + 1;
        return;
      }
      if (byte < 0x20 || byte > 0x7e || byte === backslash) break;
    }
    this.#unsure = true;
  }

  #wholeNumber(): number {
    const isNegative = this.#peek() === minus;
    if (isNegative) this.#at++;
    const from = this.#at;
    let value = 0;
    for (let byte = this.#peek(); byte >= zero && byte <= 0x39; byte = this.#peek()) {
      value = value * 10 + (byte - zero);
      this.#at++;
    }
    const digits = this.#at - from;
    const next = this.#peek();
    const isPlain = digits > 0 && digits <= digitsMax && (digits === 1 || this.#bytes[from] !== zero) && !(isNegative && value === 0);
    // What follows may make it another number: a point, an exponent.
    if (!isPlain || next === 0x2e || next === 0x65 || next === 0x45) this.#unsure = true;
    return isNegative ? -value : value;
  }

  /** Reads over any value. */
  #value(depth: number): void {
    if (this.#unsure) return;
    const byte = this.#peek();
    if (byte === quote) this.#string();
    else if (byte === openBrace) this.#object(depth + 1);
    else if (byte === openBracket) this.#array(depth + 1);
    else if (byte === minus || (byte >= zero && byte <= 0x39)) this.#number();
    else if (byte === 0x74) this.#word("true");
    else if (byte === 0x66) this.#word("false");
    else if (byte === 0x6e) this.#word("null");
    else this.#unsure = true;
  }

  #object(depth: number): void {
    if (depth > depthMax) this.#unsure = true;
    this.#at++;
    this.#space();
    if (this.#peek() === closeBrace) {
      this.#at++;
      return;
    }
    while (!this.#unsure) {
      if (this.#peek() !== quote) this.#unsure = true;
      this.#string();
      this.#space();
      if (this.#peek() !== colon) this.#unsure = true;
      this.#at++;
      this.#space();
      this.#value(depth);
      this.#space();
      const byte = this.#peek();
      this.#at++;
      if (byte === closeBrace) return;
      if (byte !== comma) this.#unsure = true;
      this.#space();
    }
  }

  #array(depth: number): void {
    if (depth > depthMax) this.#unsure = true;
    this.#at++;
    this.#space();
    if (this.#peek() === closeBracket) {
      this.#at++;
      return;
    }
    while (!this.#unsure) {
      this.#value(depth);
      this.#space();
      const byte = this.#peek();
      this.#at++;
      if (byte === closeBracket) return;
      if (byte !== comma) this.#unsure = true;
      this.#space();
    }
  }

  /** What is no UTF-8 is read as something else, and is a text all the same. */
  #string(): void {
    const bytes = this.#bytes;
    for (let at = this.#at + 1; at < bytes.length; at++) {
      const byte = bytes[at] as number;
      if (byte === quote) {
        this.#at = at + 1;
        return;
      }
      if (byte < 0x20) break;
      if (byte !== backslash) continue;
      at++;
      const escaped = bytes[at] as number;
      if (escaped === 0x75) {
        for (let digit = 1; digit <= 4; digit++) if (!isHex(bytes[at + digit])) this.#unsure = true;
        at += 4;
      } else if (!isEscape(escaped)) break;
    }
    this.#unsure = true;
  }

  #number(): void {
    if (this.#peek() === minus) this.#at++;
    if (this.#peek() === zero) this.#at++;
    else this.#digits();
    if (this.#peek() === 0x2e) {
      this.#at++;
      this.#digits();
    }
    if (this.#peek() !== 0x65 && this.#peek() !== 0x45) return;
    this.#at++;
    if (this.#peek() === 0x2b || this.#peek() === minus) this.#at++;
    this.#digits();
  }

  /** One at least. */
  #digits(): void {
    const from = this.#at;
    for (let byte = this.#peek(); byte >= zero && byte <= 0x39; byte = this.#peek()) this.#at++;
    if (this.#at === from) this.#unsure = true;
  }

  #word(word: "true" | "false" | "null"): void {
    for (let index = 0; index < word.length; index++, this.#at++) if (this.#peek() !== word.charCodeAt(index)) this.#unsure = true;
  }
}

interface Params {
  readonly span: Span;
  readonly name: string | null;
  readonly meta: Span | null;
}
interface Result {
  readonly isError: boolean;
  readonly isPlain: boolean;
}

function isText(bytes: Uint8Array, from: number, to: number, text: string): boolean {
  if (to - from !== text.length) return false;
  for (let index = 0; index < text.length; index++) if (bytes[from + index] !== text.charCodeAt(index)) return false;
  return true;
}

function isHex(byte: number | undefined): boolean {
  if (byte === undefined) return false;
  return (byte >= zero && byte <= 0x39) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66);
}

/** `"`, `\`, `/`, b, f, n, r, t. */
function isEscape(byte: number): boolean {
  return (
    byte === quote ||
    byte === backslash ||
    byte === 0x2f ||
    byte === 0x62 ||
    byte === 0x66 ||
    byte === 0x6e ||
    byte === 0x72 ||
    byte === 0x74
  );
}
