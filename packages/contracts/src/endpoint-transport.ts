import { z } from "zod";
import { hashOf } from "./canonical.ts";
import { endpointVariables } from "./environment.ts";

/** How an endpoint is reached where it is no plain URL: a process that the router runs, or the transport of protocol 2024-11-05. */

const argument = z
  .string()
  .max(8192)
  .regex(/^[^\0]*$/, "an argument cannot hold a NUL");

/** `stdio:` of an endpoint: a server that the router starts and speaks to over its standard input and output. */
export const stdioConfig = z.strictObject({
  /** A name in the router's MCPF_STDIO_ALLOW, which holds the program and its first arguments: this file, which travels, cannot name a program. */
  command: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,64}$/, "name a command of the router's MCPF_STDIO_ALLOW: 1 to 64 letters, digits, '-' or '_'; not a path"),
  /** Put after the arguments that the allow-list has. */
  args: z.array(argument).max(100).default([]),
  /** All that the process finds in its environment besides PATH, values or secrets. */
  env: endpointVariables.default({}),
  cwd: z
    .string()
    .max(1000)
    .regex(/^\/[^\0]*$/, "give an absolute path")
    .optional(),
  /** Sessions at once, a process each. */
  sessions_max: z.number().int().min(1).max(1000).optional(),
});
export type StdioConfig = z.infer<typeof stdioConfig>;

/** `sse`: HTTP+SSE of protocol 2024-11-05, where the URL is that of the stream. */
export const endpointTransport = z.enum(["streamable_http", "sse"]);

const stdioScheme = "stdio:";

/** Whether a URL of an endpoint stands for a process of the router. */
export function isStdioUrl(url: string): boolean {
  return url.startsWith(stdioScheme);
}

/** What stands for the address of a process of the router: another command, argument or variable is another address. */
function stdioUrl(endpointName: string, stdio: StdioConfig): string {
  return `${stdioScheme}//${endpointName.toLowerCase()}/${hashOf({ endpointName, ...stdio }).slice(0, 16)}`;
}

/** The parts of an endpoint that say how it is reached. */
interface Reached {
  readonly name: string;
  readonly url?: string | undefined;
  readonly stdio?: StdioConfig | undefined;
  readonly transport?: z.infer<typeof endpointTransport> | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly auth?: unknown;
  readonly tls?: unknown;
}

/** Says what is wrong between `url`, `stdio` and what goes with only one of them. */
export function checkReached(given: Reached, context: z.RefinementCtx): void {
  const wrong = (path: string, message: string): void => {
    context.addIssue({ code: "custom", path: [path], message, continue: false });
  };
  if (given.tls !== undefined && !given.url?.startsWith("https://"))
    wrong("tls", "the url does not begin with https://; give one that does, or remove tls");
  if (given.stdio === undefined) {
    if (given.url === undefined) wrong("url", "give the url of the server, or stdio: { command: NAME } for one that the router starts");
    else if (isStdioUrl(given.url)) wrong("url", "give a URL that begins with http:// or https://");
    return;
  }
  // A configuration that was read once already holds the address that was made from it.
  if (given.url !== undefined && given.url !== stdioUrl(given.name, given.stdio)) {
    wrong("url", "there is stdio: already; remove the url, or stdio: where the server has one");
  }
  if (given.transport !== undefined) wrong("transport", "there is stdio: already; remove the transport");
  if (Object.keys(given.headers).length > 0) wrong("headers", "a process has no headers; put what it needs into stdio: env");
  if (given.auth !== undefined) wrong("auth", "a process has no credentials; put what it needs into stdio: env");
}

/** An endpoint with its address: that of a process of the router is made. */
export function withAddress<T extends Reached>(given: T): Omit<T, "url"> & { url: string } {
  return { ...given, url: given.url ?? (given.stdio === undefined ? "" : stdioUrl(given.name, given.stdio)) };
}
