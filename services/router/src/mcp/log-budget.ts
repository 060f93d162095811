/** What keeps text for clients that may come back, and can give up its oldest part. */
export interface Kept {
  /** Gives up its oldest event; returns the characters of it, 0 when it has none. */
  dropOldest(): number;
}

/** Of all sessions of a process. */
const charsMaxDefault = 64 * 1024 * 1024;

/**
 * How much all streams of a process may keep together. Guarantees:
 * B1  It is never more than `charsMax`.
 * B2  Who keeps most gives first: one agent can take what nobody else needs, and nothing of what others have.
 */
export class LogBudget {
  readonly #charsMax: number;
  /** Agents whose streams keep something now. */
  readonly #owners = new Map<string, Owner>();
  #chars = 0;
  constructor(charsMax = charsMaxDefault) {
    this.#charsMax = charsMax;
  }
  get chars(): number {
    return this.#chars;
  }

  /** Of one agent; empty where nobody has to say who he is. */
  of(owner: string): LogShare {
    return {
      took: (kept, chars) => this.#took(owner, kept, chars),
      gave: (kept, chars, isEmpty) => this.#gave(owner, kept, chars, isEmpty),
    };
  }

  #took(name: string, kept: Kept, chars: number): void {
    let owner = this.#owners.get(name);
    if (owner === undefined) {
      owner = { chars: 0, kept: new Set() };
      this.#owners.set(name, owner);
    }
    owner.kept.add(kept);
    owner.chars += chars;
    this.#chars += chars;
    while (this.#chars > this.#charsMax && this.#dropOne());
  }
  #gave(name: string, kept: Kept, chars: number, isEmpty: boolean): void {
    const owner = this.#owners.get(name);
    if (owner === undefined) return;
    owner.chars -= chars;
    this.#chars -= chars;
    if (isEmpty) owner.kept.delete(kept);
    if (owner.kept.size === 0) this.#owners.delete(name);
  }

  /** False: there is nothing to give. */
  #dropOne(): boolean {
    let richest: Owner | null = null;
    for (const owner of this.#owners.values()) if (richest === null || owner.chars > richest.chars) richest = owner;
    const [oldest] = richest?.kept ?? [];
    return oldest !== undefined && oldest.dropOldest() > 0;
  }
}

interface Owner {
  chars: number;
  /** In the order in which they began to keep something; none of them is empty. */
  readonly kept: Set<Kept>;
}

/** What the streams of one agent keep. */
export interface LogShare {
  took(kept: Kept, chars: number): void;
  /** `isEmpty`: it keeps nothing any more. */
  gave(kept: Kept, chars: number, isEmpty: boolean): void;
}
