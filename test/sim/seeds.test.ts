import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { openPool, type Pool } from "./pool.ts";
import type { Schedule } from "./world-types.ts";

const folder = join(import.meta.dirname, "seeds");
/** What each schedule once broke. */
const once: Readonly<Record<string, string>> = {
  "prober-clock-set-back.json": "a prober whose clock is set back by an hour goes on probing (everything_recovers)",
  "hold-of-another-clock.json": "a clock that is set back an hour holds no endpoint down for that hour (everything_recovers)",
  "order-overtaken.json": "a breaker that was forced open late does not stay so after its reset (everything_recovers)",
  "router-back-in-half-open.json":
    "a router that comes back while all endpoints are half-open does not refuse all reads (the_last_endpoint_is_never_ejected)",
  "breaker-clock-ahead.json": "a breaker-state whose clock is an hour ahead keeps no breaker half-open for an hour (everything_recovers)",
};

let pool: Pool;
before(() => {
  pool = openPool(1, { mutant: null });
});
after(() => pool.close());

for (const [file, guarantee] of Object.entries(once)) {
  test(guarantee, async () => {
    const schedule = JSON.parse(readFileSync(join(folder, file), "utf8")) as Schedule;
    const { violation } = await pool.run({ schedule, validates: false, hashes: false, logFd: null });
    assert.equal(violation, null, `${violation?.message}\nagain: npm run sim -- --schedule test/sim/seeds/${file} --log sim.log`);
  });
}

test("every kept schedule is run", () => {
  assert.deepEqual(readdirSync(folder).sort(), Object.keys(once).sort());
});
