import { type Reply, type StatusPage, type StatusView, statusLimits, statusView } from "@mcp-failover/contracts";
import { type Bus, RefusedError } from "./bus.ts";

/** What {@link readFleetStatus} found. */
export interface FleetStatus {
  /** As of a request without a page. */
  readonly status: StatusView;
  /** What each page said of itself, in the order of reading; empty where a state-store that knows no pages answered whole. */
  readonly pages: readonly StatusPage[];
}

/**
 * `state.status` of a fleet of any size, page by page, each of which waits `timeoutMs` (default 3000) at most. The pages are of different
 * moments, so that an upstream that was added or removed meanwhile may be there or not; one that was there all the time is there once, as it
 * was at the moment (`seq`) of its page, and in the order of the configuration. With several instances a later page may be of an earlier moment.
 *
 * Throws {@link RefusedError} as the state-store said it (`not_ready`, `upstream_too_large`, `reply_too_large` of one that knows no pages), with
 * `bad_reply` for what is no page or does not go on, and with `too_many_pages` after {@link statusLimits}; {@link BusError} when nobody answers.
 */
export async function readFleetStatus(bus: Pick<Bus, "request">, { timeoutMs = 3000 }: { timeoutMs?: number } = {}): Promise<FleetStatus> {
  const parts: Paged[] = [];
  let after: string | undefined;
  while (parts.length < statusLimits.pagesMax) {
    const reply = await bus.request("state.status", { page: after === undefined ? {} : { after } }, { timeoutMs });
    const { page, ...view } = readPart(reply);
    if (page === undefined) return { status: view, pages: [] };
    if (!goesOn(view, page, after)) throw badReply();
    parts.push({ view, page });
    if (page.next === null) return { status: joined(parts), pages: parts.map((part) => part.page) };
    after = page.next;
  }
  const message = `the answer to state.status has not ended after ${statusLimits.pagesMax} pages: read the log`;
  throw new RefusedError("too_many_pages", message);
}

interface Paged {
  readonly view: StatusView;
  readonly page: StatusPage;
}

function readPart(reply: Reply): StatusView {
  if (!reply.ok) throw new RefusedError(reply.error.code, reply.error.message, reply.error.retriable);
  const part = statusView.safeParse(reply.result);
  if (!part.success) throw badReply();
  return part.data;
}

function badReply(): RefusedError {
  return new RefusedError(
    "bad_reply",
    "the answer to state.status is no status, or no next page of one: the state-store is of another version",
  );
}

/** Names that only ever grow, up to `next`, are what makes sure that nothing is there twice and that reading ends. */
function goesOn({ upstreams }: StatusView, { next, places }: StatusPage, after = ""): boolean {
  const names = [after, ...upstreams.map(({ name }) => name)];
  const grow = names.every((name, index) => index === 0 || name > (names[index - 1] ?? ""));
  return grow && places.length === upstreams.length && (next === null || (next > after && next >= (names.at(-1) ?? "")));
}

/** What all pages have (`system`, `services`) is that of the last one. A backup behind any of them is the oldest one's. */
function joined(parts: readonly Paged[]): StatusView {
  const { backupUpToSeq: _, ...last } = (parts.at(-1) as Paged).view;
  const placed = parts.flatMap(({ view, page }) => view.upstreams.map((upstream, index) => ({ upstream, place: page.places[index] ?? 0 })));
  const backups = parts.flatMap(({ view }) => view.backupUpToSeq ?? []);
  return {
    ...last,
    upstreams: placed.sort((a, b) => a.place - b.place).map(({ upstream }) => upstream),
    rollback: {
      ...last.rollback,
      agents: Object.fromEntries(parts.flatMap(({ view }) => Object.entries(view.rollback.agents))),
      tools: Object.fromEntries(parts.flatMap(({ view }) => Object.entries(view.rollback.tools))),
    },
    ...(backups.length === 0 ? {} : { backupUpToSeq: Math.min(...backups) }),
  };
}
