// Loaded before a server that would listen on all interfaces (`node --import ./examples/local/loopback-only.mjs SERVER`): holds every
// TCP port of the process to 127.0.0.1, ends the process with its supervisor, and keeps its compiled code for the next start.
import { flushCompileCache } from "node:module";
import { Server } from "node:net";

const loopback = "127.0.0.1";
const listen = Server.prototype.listen;

/** @this {Server} @param {...any} args as net.Server.listen takes them */
Server.prototype.listen = function (...args) {
  const [first, second, ...rest] = args;
  if (typeof first === "object" && first !== null && "port" in first) {
    return listen.call(this, { ...first, host: loopback }, ...args.slice(1));
  }
  // A number, or a number as text; any other text is the path of a local socket.
  if (typeof first === "number" || (typeof first === "string" && first !== "" && Number.isFinite(Number(first)))) {
    return typeof second === "string" ? listen.call(this, first, loopback, ...rest) : listen.call(this, first, loopback, ...args.slice(1));
  }
  return listen.apply(this, args);
};

// Without a handler a signal ends the process before the compile cache is written.
process.once("SIGTERM", () => process.exit(0));
const flushAfterMs = 5000;
setTimeout(flushCompileCache, flushAfterMs).unref();

if (process.env["MCPF_PARENT_PIPE"] === "1") {
  process.stdin.on("end", () => process.exit(0));
  process.stdin.resume();
}
