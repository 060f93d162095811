// Exits with 0 when the service in this container is ready.
//   node healthcheck.mjs                 asks /readyz on MCPF_HEALTH_PORT
//   node healthcheck.mjs URL             another URL; 2xx is healthy
//   node healthcheck.mjs URL any-status  any answer is (a server without a health path)
const [url = `http://127.0.0.1:${process.env["MCPF_HEALTH_PORT"] ?? 9090}/readyz`, any] = process.argv.slice(2);
try {
  const response = await fetch(url, { signal: AbortSignal.timeout(2500) });
  if (!response.ok && any !== "any-status") {
    process.stderr.write(`${url} answers ${response.status}: ${(await response.text()).slice(0, 500)}\n`);
    process.exitCode = 1;
  } else await response.body?.cancel();
} catch (error) {
  process.stderr.write(`${url} does not answer: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
