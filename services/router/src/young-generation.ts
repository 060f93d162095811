import { setFlagsFromString } from "node:v8";

/**
 * Has V8 make the young generation of this process as large as it may be in one step, where it else doubles it.
 *
 * V8 takes it down to 1 MiB at the first collection after some five seconds of rest, and lets it grow when as much as it holds has outlived
 * collections. Hardly anything outlives a call, so a router that was asked again collected several times as often for as long as
 * the load lasted, and copied and promoted what was in flight each time (docs/adr/0006). The flag is read whenever it grows, so that it may be set
 * while the process runs. It costs the memory that a router under load has anyway.
 */
export function growYoungGenerationAtOnce(): void {
  setFlagsFromString("--semi-space-growth-factor=32");
}
