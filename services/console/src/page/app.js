// The console's one page: shows what the server pushes, and asks for a failover with a reason. Keeps no state that matters.
const byId = (id) => document.getElementById(id);
const eventsMax = 200;
const weighty = new Set(["failover.executed", "failover.failed", "failover.rejected", "rollback.executed"]);
let last = null;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function showStatus({ status, connected }) {
  last = status;
  byId("connection").textContent = connected ? "live" : "NATS is out of reach: showing what was last known";
  const sick = status.upstreams.filter((u) => u.endpoints.find((e) => e.name === u.active)?.health !== "healthy");
  byId("summary").textContent =
    sick.length === 0
      ? `${status.upstreams.length} upstreams, all served by a healthy endpoint`
      : `not well: ${sick.map((u) => u.name).join(", ")}`;
  byId("upstreams").replaceChildren(...status.upstreams.map(showUpstream));
}

function showUpstream(upstream) {
  const button = element("button", { type: "button", textContent: "Fail over…", onclick: () => openDialog(upstream) });
  const row = (endpoint) => {
    const node = element(
      "tr",
      {},
      element("td", { textContent: endpoint.name === upstream.active ? `${endpoint.name} (active)` : endpoint.name }),
      element("td", {}, element("span", { className: `state ${endpoint.health}`, textContent: endpoint.health })),
      element("td", {}, element("span", { className: `state ${endpoint.breaker}`, textContent: endpoint.breaker })),
      element("td", { textContent: endpoint.responseTime === null ? "–" : `${endpoint.responseTime.toFixed(1)} ms` }),
      element("td", { className: "meta", textContent: endpoint.reason ?? "" }),
    );
    node.dataset.endpoint = endpoint.name;
    node.dataset.active = String(endpoint.name === upstream.active);
    return node;
  };
  const article = element(
    "article",
    {},
    element(
      "header",
      {},
      element("h2", { textContent: upstream.name }),
      element("span", {
        className: "meta",
        textContent: `epoch ${upstream.epoch} · since ${new Date(upstream.since).toLocaleTimeString()} · ${upstream.critical ? "critical" : "not critical"}`,
      }),
      button,
    ),
    ...(upstream.held ? [element("p", { className: "held", textContent: `held by ${upstream.held.by}: ${upstream.held.reason}` })] : []),
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element("tr", {}, ...["endpoint", "health", "breaker", "response", "why"].map((text) => element("th", { textContent: text }))),
      ),
      element("tbody", {}, ...upstream.endpoints.map(row)),
    ),
  );
  article.dataset.upstream = upstream.name;
  article.dataset.active = upstream.active;
  article.dataset.epoch = String(upstream.epoch);
  return article;
}

function showItem(item) {
  const node = element(
    "li",
    { className: weighty.has(item.type) ? "weighty" : "" },
    element("time", { dateTime: item.time, textContent: new Date(item.time).toLocaleTimeString() }),
    element("b", { textContent: item.type }),
    ` ${item.text}`,
  );
  node.dataset.type = item.type;
  byId("events").prepend(node);
  while (byId("events").children.length > eventsMax) byId("events").lastChild.remove();
}

/** Posts JSON; throws an Error with the console's own words, and with its code. */
async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const answer = await response.json();
  if (response.ok) return;
  throw Object.assign(new Error(answer.error?.message ?? `the console answered ${response.status}`), { code: answer.error?.code });
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

let commandId = "";
async function openDialog(upstream) {
  commandId = `console-${crypto.randomUUID()}`;
  byId("dialog-what").textContent = `${upstream.name} is served by ${upstream.active} (epoch ${upstream.epoch}).`;
  byId("to").replaceChildren(
    ...upstream.endpoints
      .filter((e) => e.name !== upstream.active)
      .map((e) => element("option", { value: e.name, textContent: `${e.name} (${e.health})` })),
  );
  byId("reason").value = "";
  byId("dialog-error").textContent = "";
  byId("form").onsubmit = (event) => {
    event.preventDefault();
    requestFailover(upstream.name).catch((error) => {
      byId("dialog-error").textContent = String(error.message ?? error);
    });
  };
  // Who is not signed in, or cannot tell, is asked; who cannot act at all is told why.
  await signingIn;
  const session = await fetch("/api/session")
    .then((response) => response.json())
    .catch(() => ({}));
  askForToken(session.signedIn !== true && !session.closed);
  byId("confirm").disabled = Boolean(session.closed);
  if (session.closed) byId("dialog-error").textContent = `Nobody can act here: ${session.closed}`;
  byId("dialog").showModal();
}
byId("cancel").onclick = () => byId("dialog").close();

async function requestFailover(upstream) {
  byId("confirm").disabled = true;
  try {
    if (!byId("token-part").hidden) {
      await post("/api/session", { token: byId("token").value });
      askForToken(false);
    }
    await post("/api/failover", { upstream, to: byId("to").value, reason: byId("reason").value, commandId });
    byId("dialog").close();
  } catch (error) {
    // The session has ended meanwhile.
    if (error.code === "token_missing") askForToken(true);
    throw error;
  } finally {
    byId("confirm").disabled = false;
  }
}

const source = new EventSource("/api/events");
source.addEventListener("hello", (message) => {
  const hello = JSON.parse(message.data);
  byId("events").replaceChildren();
  for (const item of hello.items) showItem(item);
  showStatus(hello);
});
source.addEventListener("state", (message) => showStatus(JSON.parse(message.data)));
source.addEventListener("item", (message) => showItem(JSON.parse(message.data)));
source.onerror = () => {
  byId("connection").textContent = last ? "the console is out of reach: showing what was last known" : "the console is out of reach";
};
