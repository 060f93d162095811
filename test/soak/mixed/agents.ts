import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import type { Random } from "../../sim/random.ts";
import { askKind, type Book, type Outcome } from "./book.ts";
import { countAnswers, outcomeOf } from "./counted.ts";
import { headers, patienceMs, SessionAgent, type Wanted } from "./session-agent.ts";

/** Everything that calls, and what each calls how often. */
export interface Agents {
  /** One more request of a kind drawn by chance; ends when it has. */
  next(random: Random): Promise<void>;
  /** Ends every session. */
  stop(): Promise<void>;
  readonly heard: number;
}

const bigBytes = 1024 * 1024;
const bigText = "x".repeat(bigBytes);
const listenMs = 4000;
const sessions = 5;

const plain = (kind: string, tool: string): Wanted => ({ kind, tool, args: (mark) => ({ mark }), answer: (mark) => `${tool} ${mark}` });
const tool = (prefix: string, name: string): Wanted => plain(`${prefix} ${name}`, name);
const ofAll = (upstream: string, wanted: Wanted): Wanted => ({ ...wanted, tool: `${upstream}__${wanted.tool}` });
const echo = (prefix: string): Wanted => ({
  kind: `${prefix} echo`,
  tool: "echo",
  args: (mark) => ({ message: mark }),
  answer: (mark) => `Echo: ${mark}`,
});
const big: Wanted = {
  kind: "session big",
  tool: "big",
  args: (mark) => ({ mark, fill: bigText }),
  answer: (mark) => `big ${mark} ${bigText}`,
};
const ask: Wanted = { ...tool("session", "ask"), kind: askKind, answer: (mark) => `ask ${mark} accept` };

export function startAgents(routerUrl: string, book: Book): Agents {
  const agent = (path: string, name: string, calls: number): SessionAgent => new SessionAgent(`${routerUrl}${path}`, name, book, calls);
  const tools = Array.from({ length: sessions }, () => agent("/mcp/tools", "session", 40));
  const all = [agent("/mcp", "aggregate", 40), agent("/mcp", "aggregate", 40)];
  const stdio = agent("/mcp/local", "stdio", 60);
  const old = agent("/mcp/old", "old", 60);
  const modern = new ModernAgent(`${routerUrl}/mcp/tools`, book);
  const orders = `${routerUrl}/http/orders/order`;

  const kinds: readonly (readonly [weight: number, run: (random: Random) => Promise<void>])[] = [
    [18, (random) => random.pick(tools).call(tool("session", "read"))],
    [12, (random) => random.pick(tools).call(tool("session", "write"))],
    [7, (random) => random.pick(tools).call(tool("session", "progress"))],
    [5, (random) => random.pick(tools).call(ask)],
    [4, (random) => random.pick(tools).call(tool("session", "poll"))],
    [3, (random) => random.pick(tools).call(tool("session", "tell"))],
    [1, (random) => random.pick(tools).call(big)],
    [9, () => modern.call(tool("modern", "read"))],
    [6, () => modern.call(tool("modern", "write"))],
    [1, () => modern.listen()],
    [3, (random) => leave(`${routerUrl}/mcp/tools`, book, random)],
    [10, () => order(orders, "GET", book)],
    [6, () => order(orders, "POST", book)],
    [3, () => stdio.call(echo("stdio"))],
    [3, () => old.call(echo("old"))],
    [4, (random) => random.pick(all).call(ofAll("tools", tool("aggregate", "read")))],
    [2, (random) => random.pick(all).call(ofAll("tools", tool("aggregate", "write")))],
    [2, (random) => random.pick(all).call(ofAll(random.pick(["local", "old"]), echo("aggregate")))],
  ];
  const weights = kinds.reduce((sum, [weight]) => sum + weight, 0);
  const every = [...tools, ...all, stdio, old];
  return {
    async next(random) {
      let at = random.next() * weights;
      for (const [weight, run] of kinds) {
        at -= weight;
        if (at < 0) return run(random);
      }
    },
    async stop() {
      await Promise.all([...every.map((one) => one.stop()), modern.stop()]);
    },
    get heard() {
      return every.reduce((sum, one) => sum + one.heard, 0);
    },
  };
}

/** A client of SDK 2.x in the era of 2026-07-28: no session, and `subscriptions/listen`. */
class ModernAgent {
  readonly #url: URL;
  readonly #book: Book;
  #client: Promise<Client | null> | null = null;

  constructor(url: string, book: Book) {
    this.#url = new URL(url);
    this.#book = book;
  }
  async call({ kind, tool: name, args, answer }: Wanted): Promise<void> {
    const client = await this.#connected();
    if (client === null) return;
    await this.#request(kind, async (mark) => {
      const result = await client.callTool({ name, arguments: args(mark) }, { timeout: patienceMs });
      const text = String((result as { content?: { text?: string }[] }).content?.[0]?.text);
      return { right: text === answer(mark), text };
    });
  }
  async listen(): Promise<void> {
    const client = await this.#connected();
    if (client === null) return;
    await this.#request("modern listen", async () => {
      const subscription = await client.listen({ toolsListChanged: true }, { timeout: patienceMs });
      setTimeout(() => void subscription.close(), listenMs);
      return { right: true, text: "" };
    });
  }
  async stop(): Promise<void> {
    await (await this.#client)?.close();
  }

  async #request(kind: string, run: (mark: string) => Promise<{ right: boolean; text: string }>): Promise<void> {
    const mark = this.#book.begin(kind);
    const begunMs = Date.now();
    try {
      const { right, text } = await run(mark);
      this.#book.end(kind, mark, begunMs, right ? "ok" : "wrong", text);
    } catch (error) {
      const { outcome, detail } = outcomeOf(error);
      this.#book.end(kind, mark, begunMs, outcome, detail);
    }
  }
  #connected(): Promise<Client | null> {
    this.#client ??= this.#connect().then((client) => {
      if (client === null) this.#client = null;
      return client;
    });
    return this.#client;
  }
  async #connect(): Promise<Client | null> {
    const client = new Client({ name: "modern", version: "1.0.0" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
    client.onerror = () => undefined;
    const transport = new StreamableHTTPClientTransport(this.#url, { requestInit: { headers } });
    countAnswers(transport, "modern", this.#book);
    let connected: Client | null = null;
    await this.#request("modern discover", async () => {
      await client.connect(transport, { timeout: patienceMs });
      connected = client;
      return { right: true, text: "" };
    });
    if (connected === null) await client.close();
    return connected;
  }
}

const modernMeta = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientInfo": { name: "leaver", version: "1.0.0" },
  "io.modelcontextprotocol/clientCapabilities": {},
};

/** A client that hangs up in the middle of its call; the write may have run once, or not. */
async function leave(url: string, book: Book, random: Random): Promise<void> {
  const name = random.pick(["write", "progress"]);
  const kind = `left ${name}`;
  const mark = book.begin(kind);
  const begunMs = Date.now();
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), 1 + random.next() * (name === "write" ? 10 : 200));
  try {
    const params = { name, arguments: { mark }, _meta: modernMeta };
    const own = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": name };
    const answer = await fetch(url, {
      method: "POST",
      headers: { ...headers, ...own, "content-type": "application/json", accept: "application/json, text/event-stream" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params }),
      signal: abort.signal,
    });
    const text = await answer.text();
    // The router's own errors come with 200 (R22), and a write that got one was not said to be done.
    const code = /"code":"(\w+)"/.exec(text)?.[1];
    const outcome: Outcome = text.includes(`${name} ${mark}"`) ? "ok" : code !== undefined ? `error ${code}` : "wrong";
    book.end(kind, mark, begunMs, answer.ok ? outcome : `http ${code ?? answer.status}`, text);
  } catch (error) {
    if (abort.signal.aborted) book.end(kind, mark, begunMs, "left");
    else book.end(kind, mark, begunMs, "broken", outcomeOf(error).detail);
  } finally {
    clearTimeout(timer);
  }
}

/** A call of the plain API. */
async function order(url: string, method: "GET" | "POST", book: Book): Promise<void> {
  const kind = method === "GET" ? "http read" : "http write";
  const mark = book.begin(kind);
  const begunMs = Date.now();
  try {
    const answer = await fetch(`${url}/${mark}`, { method, headers, signal: AbortSignal.timeout(patienceMs) });
    const text = await answer.text();
    if (answer.ok) book.end(kind, mark, begunMs, text.includes(`/order/${mark}"`) ? "ok" : "wrong", text);
    else book.end(kind, mark, begunMs, `http ${/"code":"(\w+)"/.exec(text)?.[1] ?? answer.status}`, text);
  } catch (error) {
    const { outcome, detail } = outcomeOf(error);
    book.end(kind, mark, begunMs, outcome, detail);
  }
}
