// Preloaded into the services of the mixed soak (`NODE_OPTIONS=--import`): on SIGUSR2 a process collects its garbage, so that what its heap holds is
// what it keeps.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

if (process.env["MCPF_INSTANCE"] !== undefined) {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  setFlagsFromString("--no-expose-gc");
  process.on("SIGUSR2", () => collect());
}
