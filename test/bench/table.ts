/** Rows under their headings, aligned with spaces; a column of figures to the right. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const isFigure = headings.map(
    (_, column) => rows.length > 0 && rows.every((row) => /^(-?[\d.]+(e[+-]?\d+)?|NaN|-)?$/.test(row[column] ?? "")),
  );
  const widths = headings.map((heading, column) => Math.max(heading.length, ...rows.map((row) => (row[column] ?? "").length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => (isFigure[column] === true ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0)))
      .join("  ")
      .trimEnd();
  return [line(headings), ...rows.map(line)].join("\n");
}
