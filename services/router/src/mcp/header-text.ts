const encoded = /^=\?base64\?([A-Za-z0-9+/=]*)\?=$/;

/** A name as it travels in `Mcp-Name`: what no header can hold, as `=?base64?...?=` (MCP 2026-07-28). */
export function headerText(text: string): string {
  const isPlain = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(text) && !encoded.test(text);
  return isPlain ? text : `=?base64?${Buffer.from(text).toString("base64")}?=`;
}
export function plainText(header: string): string {
  const inside = encoded.exec(header)?.[1];
  return inside === undefined ? header : Buffer.from(inside, "base64").toString("utf8");
}
