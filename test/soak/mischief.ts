// Preloaded into every process of a soaked stack (`NODE_OPTIONS=--import`), and in no other: on SIGUSR2 a process reads what it has to suffer
// from the file in MCPF_SOAK_MISCHIEF, by its MCPF_INSTANCE. What it suffers are a clock that jumps, and connections that cannot be made.
import { appendFileSync, readFileSync } from "node:fs";
import { Socket } from "node:net";

export interface Mischief {
  /** Added to what `Date` says; the monotonic clock goes on as it does when a real clock is set. */
  readonly clockMs?: number;
  /** Connections to these ports are refused at once... */
  readonly refuse?: readonly number[];
  /** ...and to these never come about; "all": to any. Those that are open break. */
  readonly silence?: readonly number[] | "all";
}

/** What was really suffered, a line each time, in a file beside that of the mischief. */
export const deedsOf = (mischiefFile: string): string => `${mischiefFile}.done`;

const file = process.env["MCPF_SOAK_MISCHIEF"];
const instance = process.env["MCPF_INSTANCE"];
if (file !== undefined && instance !== undefined) {
  let mischief: Mischief = {};
  const done = (what: string): void => appendFileSync(deedsOf(file), `${instance} ${what}\n`);
  const RealDate = Date;
  const realNow = RealDate.now.bind(RealDate);
  const now = (): number => realNow() + (mischief.clockMs ?? 0);
  RealDate.now = now;
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args: [], newTarget) =>
      Reflect.construct(target, args.length === 0 ? [now()] : args, newTarget === globalThis.Date ? target : newTarget),
  });

  const open = new Map<Socket, number>();
  const fate = (port: number): "refuse" | "silence" | null => {
    if (mischief.silence === "all" || mischief.silence?.includes(port)) return "silence";
    return mischief.refuse?.includes(port) ? "refuse" : null;
  };
  const connect = Socket.prototype.connect as (this: Socket, ...args: unknown[]) => Socket;
  Socket.prototype.connect = function (this: Socket, ...args: unknown[]): Socket {
    const first = Array.isArray(args[0]) ? (args[0][0] as unknown) : args[0];
    const port = Number(typeof first === "object" && first !== null ? (first as { port?: unknown }).port : first);
    open.set(this, port);
    this.once("close", () => open.delete(this));
    const doom = fate(port);
    if (doom === null) return connect.apply(this, args);
    if (doom === "refuse") {
      done("was refused a connection");
      const error = Object.assign(new Error(`connect ECONNREFUSED 127.0.0.1:${port}`), { code: "ECONNREFUSED", syscall: "connect" });
      process.nextTick(() => this.destroy(error));
    }
    return this;
  } as typeof Socket.prototype.connect;

  const suffer = (): void => {
    const all = JSON.parse(readFileSync(file, "utf8")) as Record<string, Mischief>;
    mischief = all[instance] ?? {};
    const doomed = [...open].filter(([, port]) => fate(port) !== null);
    for (const [socket] of doomed) socket.destroy();
    if (mischief.clockMs !== undefined) done(`is ${Math.round((Date.now() - realNow()) / 1000)} s ahead`);
    if (mischief.silence === "all") done(`reaches nothing, and lost ${doomed.length} connections`);
    else if (mischief.silence !== undefined) done("reaches no endpoint");
    if (mischief.refuse !== undefined) done("begins to lie");
  };
  // One that is started again suffers what it suffered before.
  suffer();
  process.on("SIGUSR2", suffer);
}
