const [seconds, nanoseconds] = process.hrtime();
const offsetMs = seconds * 1000 + nanoseconds / 1e6 - performance.now();

/** Milliseconds of the machine's steady clock, which all its processes share. */
export function nowMs(): number {
  return offsetMs + performance.now();
}
