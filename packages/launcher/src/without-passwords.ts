/**
 * The URL of a server, or of several with commas between, as it may be shown. Whatever stands before the last "@" of each goes, also where the
 * text is no URL, so that a password with "@", "/" or "," in it, which should have been encoded, is not shown in part.
 */
export function withoutPasswords(urls: string): string {
  return urls
    .split(/,\s*(?=[a-z+]+:\/\/)/i)
    .map((url) => url.replace(/^([a-z+]+:\/\/)?.*@/is, "$1").replace(/\/$/, ""))
    .join(",");
}
