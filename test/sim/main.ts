import { scheduleOf } from "./schedule.ts";

setImmediate(async () => {
  const { runWorld } = await import("./world.ts");
  const seed = Number(process.argv[2] ?? 1);
  const runs = Number(process.argv[3] ?? 1);
  setImmediate(() => {
    for (let index = 0; index < runs; index += 1) {
      const result = runWorld(scheduleOf(seed + index), { logFd: process.argv[4] === "log" ? 1 : null });
      if (process.argv[4] !== "log") console.log(JSON.stringify(result, null, 1));
    }
  });
});
