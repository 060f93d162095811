/**
 * Looking a name up keeps a thread for as long as its name server is silent; Node has four for all that it does beside, and two of them for names (names.ts).
 * It reads this before it begins the first, so a process that connects by name imports this before all else, as `@mcp-failover/service-kit/threads`. A thread
 * that nobody uses costs some pages of memory.
 */
process.env["UV_THREADPOOL_SIZE"] ??= "64";
