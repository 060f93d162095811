/**
 * A reporter for node:test that writes one JSON line for each event that counting needs. The human reads the spec reporter beside it.
 * `test:start` is there as a sign of life for the watchdog.
 *
 * @param {AsyncIterable<{ type: string, data: any }>} source
 */
export default async function* jsonLines(source) {
  for await (const { type, data } of source) {
    if (type === "test:start") yield `${JSON.stringify({ type, file: data.file })}\n`;
    if (type !== "test:pass" && type !== "test:fail") continue;
    const { name, nesting, file, skip, todo, details } = data;
    yield `${JSON.stringify({
      type,
      name,
      nesting,
      file,
      kind: details?.type ?? "test",
      skipped: skip !== undefined || todo !== undefined,
      failureType: details?.error?.failureType,
    })}\n`;
  }
}
