// The console's one page: shows what the server pushes, and asks for a failover with a reason. Keeps no state that matters.
const byId = (id) => document.getElementById(id);
const eventsMax = 200;
const weighty = new Set(["failover.executed", "failover.failed", "failover.rejected", "rollback.executed"]);
/** The console beats every 5 s: silent for so long (ms), its connection is dead, whatever the browser believes. */
const silentMsMax = 12_000;
/** A browser gives up for good where it is answered anything but a stream, as a proxy does while the console starts again (ms). */
const againMs = 2000;
/** The console itself gives up on an order after 15 s. */
const answerMsMax = 20_000;
const day = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  timeZoneName: "short",
});
const clock = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
/** The newest state; null before the first. */
let last = null;
let lastAtMs = 0;
/** Why the console is not heard; null: it is. */
let unheard = "connecting…";
let heardMs = 0;
let due = 0;
/** What is on the page, by the upstream's name. */
const cards = new Map();

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Changes a text only where it is another one, so that a screen reader says it once. */
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function showStatus(view) {
  last = view;
  lastAtMs = Date.now();
  if (due === 0) due = requestAnimationFrame(render);
}

/** Only what has changed is made anew: a thousand upstreams do not stop the page, and no button goes from under a finger or the keyboard's focus. */
function render() {
  due = 0;
  const { upstreams } = last.status;
  const names = new Set(upstreams.map(({ name }) => name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.article.remove();
    cards.delete(name);
  }
  let next = byId("upstreams").firstChild;
  for (const upstream of upstreams) {
    const card = cards.get(upstream.name) ?? makeCard(upstream.name);
    const text = JSON.stringify(upstream);
    if (card.text !== text) fillCard(card, upstream);
    card.text = text;
    if (next === card.article) next = next.nextSibling;
    else byId("upstreams").insertBefore(card.article, next);
  }
  showSummary();
}

function showSummary() {
  const why = unheard ?? last?.stale ?? null;
  if (why === null) say("connection", "live");
  else say("connection", last === null ? why : `${why}: showing what was last known`);
  document.body.dataset.stale = String(why !== null);
  if (last === null) return;
  const { upstreams } = last.status;
  const sick = upstreams.filter((upstream) => !isServed(upstream)).map(({ name }) => name);
  const sum =
    upstreams.length === 0
      ? "no upstreams are known"
      : sick.length === 0
        ? `${upstreams.length} upstreams, all served by a healthy endpoint`
        : `not well: ${sick.slice(0, 20).join(", ")}${sick.length > 20 ? ` and ${sick.length - 20} more` : ""}`;
  say("summary", why === null ? sum : `not known now; at ${clock.format(lastAtMs)}: ${sum}`);
}

const cutOff = new Set(["open", "half_open", "forced_open"]);
/** Whether what serves is healthy and let through: the active endpoint, in a pool any of its tier. */
function isServed({ mode, active, endpoints }) {
  const tier = endpoints.find(({ name }) => name === active)?.tier;
  return endpoints.some((e) => (mode === "pool" ? e.tier === tier : e.name === active) && e.health === "healthy" && !cutOff.has(e.breaker));
}

function makeCard(name) {
  const meta = element("span", { className: "meta" });
  const button = element("button", { type: "button", textContent: "Fail over…", onclick: () => openDialog(name) });
  button.setAttribute("aria-label", `Fail over ${name}…`);
  const held = element("p", { className: "held", hidden: true });
  const rows = element("tbody");
  const heads = ["endpoint", "health", "breaker", "response", "why"].map((text) => element("th", { scope: "col", textContent: text }));
  const article = element(
    "article",
    {},
    element("header", {}, element("h2", { textContent: name }), meta, button),
    held,
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), rows),
  );
  article.dataset.upstream = name;
  const card = { article, meta, button, held, rows, text: "" };
  cards.set(name, card);
  return card;
}

function fillCard({ article, meta, button, held, rows }, upstream) {
  const isActive = ({ name }) => name === upstream.active;
  const row = (endpoint) => {
    const node = element(
      "tr",
      {},
      element("td", { textContent: isActive(endpoint) ? `${endpoint.name} (active)` : endpoint.name }),
      element("td", {}, element("span", { className: `state ${endpoint.health}`, textContent: endpoint.health })),
      element("td", {}, element("span", { className: `state ${endpoint.breaker}`, textContent: endpoint.breaker })),
      element("td", { textContent: endpoint.responseTime === null ? "–" : `${endpoint.responseTime.toFixed(1)} ms` }),
      element("td", { className: "meta", textContent: endpoint.reason ?? "" }),
    );
    node.dataset.endpoint = endpoint.name;
    node.dataset.active = String(isActive(endpoint));
    return node;
  };
  meta.textContent = `epoch ${upstream.epoch} · since ${day.format(new Date(upstream.since))} · ${upstream.critical ? "critical" : "not critical"}`;
  meta.title = upstream.since;
  held.hidden = !upstream.held;
  held.textContent = upstream.held ? `held by ${upstream.held.by}: ${upstream.held.reason}` : "";
  button.disabled = upstream.endpoints.length < 2;
  button.title = button.disabled ? "it has no other endpoint" : "";
  rows.replaceChildren(...upstream.endpoints.map(row));
  article.dataset.active = upstream.active;
  article.dataset.epoch = String(upstream.epoch);
}

function showItem(item) {
  const node = element(
    "li",
    { className: weighty.has(item.type) ? "weighty" : "" },
    element("time", { dateTime: item.time, title: item.time, textContent: clock.format(new Date(item.time)) }),
    element("b", { textContent: item.type }),
    ` ${item.text}`,
  );
  node.dataset.type = item.type;
  byId("events").prepend(node);
  while (byId("events").children.length > eventsMax) byId("events").lastChild.remove();
}

/** Errors of the console's bus after which nothing is on its way to anybody. */
const unsentCodes = new Set(["unreachable", "no_responders"]);
/**
 * Posts JSON; throws an Error with the console's own words and its code. `fate`: "refused" by whoever carries it out; "unsent": it never came that
 * far; "unknown": it may have been done, or be done yet.
 */
async function post(path, body) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { ...request, signal: AbortSignal.timeout(answerMsMax) }).catch((cause) => {
    throw Object.assign(new Error("the console did not answer", { cause }), { fate: "unknown" });
  });
  if (response.ok) return;
  const { error } = await response.json().catch(() => ({}));
  const isKnown = error !== undefined && (unsentCodes.has(error.code) || (response.status < 500 && error.retriable !== true));
  const fate = !isKnown ? "unknown" : response.status === 409 ? "refused" : "unsent";
  throw Object.assign(new Error(error?.message ?? `the console answered ${response.status}`), { code: error?.code, fate });
}

/** Asks for the token, or no longer. */
function askForToken(wanted) {
  byId("token-part").hidden = !wanted;
  byId("token").required = wanted;
  byId("token").value = "";
}

/** The link that the launcher prints has the token behind "#", which browsers send to nobody. It leaves the address bar before anything else. */
async function takeTokenOfLink() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  byId("access").textContent = "";
  await post("/api/session", { token }).catch((error) => {
    byId("access").textContent = `The token of this link was not taken: ${error.message}`;
  });
}

let signingIn = takeTokenOfLink();
addEventListener("hashchange", () => {
  signingIn = takeTokenOfLink();
});

/** The form that is shown; null: none. What another one has begun changes nothing in it. */
let form = null;

async function openDialog(name) {
  if (form !== null || !last.status.upstreams.some((upstream) => upstream.name === name)) return;
  const opened = { upstream: name, seq: 0, order: null, sent: false };
  form = opened;
  byId("reason").value = "";
  byId("to").replaceChildren();
  describe(opened);
  say("access", "");
  say("dialog-error", "");
  askForToken(false);
  byId("confirm").disabled = true;
  byId("dialog").showModal();
  byId("reason").focus();
  // Who is not signed in, or cannot tell, is asked; who cannot act at all is told why.
  await signingIn;
  const session = await fetch("/api/session", { signal: AbortSignal.timeout(answerMsMax) })
    .then((response) => response.json())
    .catch(() => ({}));
  if (form !== opened) return;
  askForToken(session.signedIn !== true && !session.closed);
  byId("confirm").disabled = Boolean(session.closed);
  if (session.closed) say("dialog-error", `Nobody can act here: ${session.closed}`);
}

/** Says in the form how things stand now, and from which event of the log that is known: an order overtakes nothing that came after it. */
function describe(shown) {
  const upstream = last.status.upstreams.find(({ name }) => name === shown.upstream);
  if (upstream === undefined) return;
  shown.seq = last.seq;
  const chosen = byId("to").value;
  const is = unheard === null && last.stale === null ? "is" : "was, as far as was known last,";
  byId("dialog-what").textContent = `${upstream.name} ${is} served by ${upstream.active} (epoch ${upstream.epoch}).`;
  byId("to").replaceChildren(
    ...upstream.endpoints
      .filter((e) => e.name !== upstream.active)
      .map((e) => element("option", { value: e.name, textContent: `${e.name} (${e.health})`, selected: e.name === chosen })),
  );
}

byId("cancel").onclick = () => byId("dialog").close();
byId("dialog").onclose = () => {
  if (form?.sent) say("access", `The failover of ${form.upstream} was on its way already: the events say what became of it.`);
  form = null;
};
byId("form").onsubmit = (event) => {
  event.preventDefault();
  if (form !== null && !byId("confirm").disabled) void requestFailover(form);
};

/** One order under one id for as long as nothing is known of it, so that asking again acts once. After an answer, or in other words, it is another. */
function orderOf(asked, wanted) {
  const text = JSON.stringify(wanted);
  // Not `randomUUID`: browsers have it on https and on this machine alone.
  const id = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (asked.order?.text !== text) asked.order = { text, body: { ...wanted, givenAtSeq: asked.seq, commandId: `console-${id()}` } };
  return asked.order.body;
}

/** What the form says is read once: whoever closes it has cancelled what was not sent, and the next one is another. */
async function requestFailover(asked) {
  const wanted = { upstream: asked.upstream, to: byId("to").value, reason: byId("reason").value };
  const token = byId("token-part").hidden ? null : byId("token").value;
  byId("confirm").disabled = true;
  try {
    if (token !== null) {
      await post("/api/session", { token });
      if (form !== asked) return;
      askForToken(false);
    }
    asked.sent = true;
    await post("/api/failover", orderOf(asked, wanted));
    asked.sent = false;
    if (form === asked) byId("dialog").close();
  } catch (error) {
    if (asked.sent && error.fate === "unknown") asked.order.unknown = true;
    asked.sent = false;
    // That this try came to nothing says nothing of one before it.
    const isUnknown = error.fate !== "refused" && asked.order?.unknown === true;
    const unknown = isUnknown ? " Whether it was done is not known: see the events. The same order again is done once at most." : "";
    if (form !== asked) return say("access", `Fail over ${asked.upstream}: ${error.message}.${unknown}`);
    // The session has ended meanwhile.
    if (error.code === "token_missing") askForToken(true);
    if (error.fate !== "unknown" && !isUnknown) {
      asked.order = null;
      describe(asked);
    }
    say("dialog-error", `${error.message}${unknown && `.${unknown}`}`);
  } finally {
    if (form === asked) byId("confirm").disabled = false;
  }
}

let source = null;
/** A browser has six connections to one server: a page that nobody looks at holds none of them, so that the seventh opens, and can act. */
function watch() {
  source?.close();
  source = null;
  if (document.hidden) return lose("nobody looks at this page");
  heardMs = performance.now();
  source = new EventSource("/api/events");
  const on = (type, take) =>
    source.addEventListener(type, (message) => {
      heardMs = performance.now();
      unheard = null;
      take(JSON.parse(message.data));
    });
  on("hello", (hello) => {
    byId("events").replaceChildren();
    for (const item of hello.items) showItem(item);
    showStatus(hello);
  });
  on("state", showStatus);
  on("item", showItem);
  on("beat", showSummary);
  source.onerror = () => {
    lose("the console is out of reach");
    if (source?.readyState === EventSource.CLOSED) setTimeout(watch, againMs);
  };
}

function lose(why) {
  unheard = why;
  showSummary();
}

watch();
document.addEventListener("visibilitychange", watch);
setInterval(() => {
  if (source === null || performance.now() - heardMs < silentMsMax) return;
  lose("the console says nothing any more");
  watch();
}, 1000);
