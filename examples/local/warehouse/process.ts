/** The port that the supervisor gave. */
export function port(): number {
  const found = Number(process.env["PORT"]);
  if (!Number.isInteger(found) || found < 1 || found > 65_535) {
    process.stderr.write("set PORT to the port to listen on\n");
    process.exit(2);
  }
  return found;
}

/** Ends the process on SIGTERM, and with the supervisor that holds its standard input (`MCPF_PARENT_PIPE=1`). */
export function endWithParent(): void {
  process.once("SIGTERM", () => process.exit(0));
  if (process.env["MCPF_PARENT_PIPE"] !== "1") return;
  process.stdin.on("end", () => process.exit(0));
  process.stdin.resume();
}
