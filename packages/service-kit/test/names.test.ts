import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type LookUp, openNames } from "../src/names.ts";

/** Names by how long their name server takes; one that is silent answers when the test says so. */
function resolver(clock: { ms: number }) {
  const silent = new Map<string, () => void>();
  const asked: string[] = [];
  let most = 0;
  const lookUp: LookUp = (hostname, _options, told) => {
    asked.push(hostname);
    if (!hostname.startsWith("silent")) return queueMicrotask(() => told(null, "127.0.0.1", 4));
    silent.set(hostname, () => {
      clock.ms += 10_000;
      silent.delete(hostname);
      told(Object.assign(new Error("EAI_AGAIN"), { code: "EAI_AGAIN" }), "");
    });
    most = Math.max(most, silent.size);
  };
  const givesUp = () => {
    for (const end of [...silent.values()]) end();
  };
  return { lookUp, asked, silent, givesUp, most: () => most };
}

const askOf = (names: LookUp, hostname: string) =>
  new Promise<string>((resolve) => {
    names(hostname, { all: true }, (error, address) => resolve(error?.code ?? String(address)));
  });

test("N1 a name is looked up once at a time, and who asks meanwhile hears the same", async () => {
  const { lookUp, asked, givesUp } = resolver({ ms: 0 });
  const names = openNames({ lookUp, places: 2 });
  const many = Array.from({ length: 500 }, () => askOf(names, "silent.test"));
  await sleep(0);
  assert.deepEqual(asked, ["silent.test"]);
  givesUp();
  assert.deepEqual(new Set(await Promise.all(many)), new Set(["EAI_AGAIN"]));
  assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  await askOf(names, "well.test");
  assert.deepEqual(asked, ["silent.test", "well.test", "well.test"]);
});

test("N1 each name is asked for by itself, also one that is asked for in another way, and who asks later hears what is so then", async () => {
  const asked: { readonly name: string; readonly tell: Parameters<LookUp>[2] }[] = [];
  const lookUp = openNames({ lookUp: (name, _options, tell) => void asked.push({ name, tell }), places: 64 });
  const ask = (name: string, all = true) =>
    new Promise<string>((resolve) => {
      lookUp(name, { all }, (error, address) => resolve(error?.code ?? JSON.stringify(address)));
    });
  const both = [ask("one"), ask("one")];
  const others = [ask("two"), ask("one", false)];
  assert.deepEqual(
    asked.map(({ name }) => name),
    ["one", "two", "one"],
  );
  asked[0]?.tell(null, [{ address: "127.0.0.1", family: 4 }]);
  asked[1]?.tell(Object.assign(new Error(), { code: "EAI_AGAIN" }), "");
  asked[2]?.tell(null, "127.0.0.2", 4);
  const first = '[{"address":"127.0.0.1","family":4}]';
  assert.deepEqual(await Promise.all([...both, ...others]), [first, first, "EAI_AGAIN", '"127.0.0.2"']);
  const again = ask("one");
  assert.equal(asked.length, 4);
  asked[3]?.tell(null, []);
  assert.equal(await again, "[]");
});

test("N2 however many names are silent, those that were answered at once are looked up, and in the end all are", async () => {
  const clock = { ms: 0 };
  const { lookUp, silent, givesUp, most } = resolver(clock);
  const names = openNames({ lookUp, places: 2, clockMs: () => clock.ms });
  assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  const heard: string[] = [];
  for (let n = 0; n < 20; n += 1) void askOf(names, `silent${n}.test`).then(() => heard.push(`silent${n}.test`));
  const unknown = askOf(names, "new.test");
  for (let n = 0; n < 50; n += 1) assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  assert.equal(silent.size, 1);
  for (let n = 0; n < 20; n += 1) {
    givesUp();
    await sleep(0);
    assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  }
  assert.equal(await unknown, "127.0.0.1");
  assert.equal(heard.length, 20);
  assert.equal(most(), 1);
});

test("N2 a name that is silent of a sudden is no prompt one from then on", async () => {
  const clock = { ms: 0 };
  const { lookUp, silent, givesUp } = resolver(clock);
  const turned: { is: boolean } = { is: false };
  const turning: LookUp = (hostname, options, told) =>
    lookUp(turned.is && hostname !== "well.test" ? `silent-${hostname}` : hostname, options, told);
  const names = openNames({ lookUp: turning, places: 2, clockMs: () => clock.ms });
  for (const name of ["a.test", "b.test", "well.test"]) await askOf(names, name);
  turned.is = true;
  void askOf(names, "a.test");
  void askOf(names, "b.test");
  await sleep(0);
  assert.equal(silent.size, 2, "they were prompt until now");
  givesUp();
  await sleep(0);
  void askOf(names, "a.test");
  void askOf(names, "b.test");
  await sleep(0);
  assert.equal(silent.size, 1);
  assert.equal(await askOf(names, "well.test"), "127.0.0.1");
});
