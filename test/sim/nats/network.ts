import { Random } from "../random.ts";

/** The line between one machine and NATS, and what goes wrong on it. It outlives the processes of the machine. */
export class Line {
  readonly random: Random;
  /** How many partitions are in the way now. */
  outCuts = 0;
  inCuts = 0;
  loseAcks = 0;
  losePublishes = 0;
  loseCore = 0;
  duplicateCore = 0;
  reorderCore = { share: 0, ms: 0 };
  delay = { share: 0, ms: 0 };
  /** For tests: the next publishes lose their answer, after they were stored or without. */
  readonly loseNext: { readonly stored: boolean }[] = [];

  constructor(seed: number) {
    this.random = new Random(seed);
  }

  get whole(): boolean {
    return this.outCuts === 0 && this.inCuts === 0;
  }

  /** One way, usual: a fraction of a millisecond; now and then some, by the scheduler of a machine. */
  latencyMs(): number {
    const { random, delay } = this;
    const usual = 0.1 + random.next() * 0.4 + (random.next() < 0.01 ? random.next() * 10 : 0);
    return delay.share > 0 && random.next() < delay.share ? usual + random.next() * delay.ms : usual;
  }
}
