export type Format = "table" | "json" | "ndjson";

/** Prints one document: a table for people, the value itself for scripts. */
export interface Output {
  readonly format: Format;
  /** `json` prints the value indented, `ndjson` one line a row. */
  print(value: unknown, table: () => string, rows?: readonly unknown[]): void;
  /** One item of a stream: a line of text, or one JSON line. */
  line(value: unknown, text: string): void;
  /** Text as it is, whatever the format. */
  text(text: string): void;
  /** Progress and warnings, beside the result. */
  note(text: string): void;
}

export function openOutput(format: Format, write: (text: string) => void, writeError: (text: string) => void): Output {
  return {
    format,
    print(value, table, rows) {
      if (format === "json") write(`${JSON.stringify(value, null, 2)}\n`);
      else if (format === "ndjson") for (const row of rows ?? [value]) write(`${JSON.stringify(row)}\n`);
      else write(`${table().trimEnd()}\n`);
    },
    line(value, text) {
      write(format === "table" ? `${text}\n` : `${JSON.stringify(value)}\n`);
    },
    text: write,
    note: (text) => writeError(`${text}\n`),
  };
}

/** Columns as wide as their widest cell, two spaces between. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all
    .map((row) =>
      row
        .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
