// Makes stand-ins for the base images where no container registry can be reached: npm run images:base
import { baseImages, imageCache, makeStandIns } from "./lib/stand-ins.mjs";

try {
  const made = makeStandIns();
  for (const { name } of baseImages()) process.stdout.write(`${name}: ${made.includes(name) ? "made" : "here already"}\n`);
  process.stdout.write(`kept for the next time in ${imageCache()}\n`);
} catch (error) {
  process.stderr.write(`npm run images:base: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
