import assert from "node:assert/strict";
import { test } from "node:test";
import { emptyReadModel, foldIncident, type Incident, incidentContext, inhibitIncident } from "@mcp-failover/domain";
import { failing, rollbackNotice, startMs } from "./audit-events.ts";

const context = incidentContext(emptyReadModel, "shop");
const told = (incident: Incident | null, severity: "page" | "notify", deadEnd = true): Incident => ({
  ...(incident as Incident),
  notified: ["opened"],
  told: { severity, deadEnd, atMs: startMs, seq: 9, channels: ["pager"], outbox: {} },
});
const deadEnd = told(foldIncident(null, failing(1, "shop", true), context), "page");
const rolledBack = foldIncident(null, rollbackNotice(2, "rollback.executed", "stock"), context) as Incident;

test("N1: the rollback of a tool waits while people know that its upstream has nowhere to go, and for nothing less", () => {
  assert.equal(inhibitIncident(rolledBack, deadEnd), null);
  for (const cause of [
    null,
    { ...deadEnd, status: "resolved" as const },
    { ...deadEnd, deadEnd: false },
    { ...deadEnd, told: null },
    told(deadEnd, "page", false),
  ]) {
    assert.equal(inhibitIncident(rolledBack, cause), rolledBack);
  }
  const agent = { ...rolledBack, dedupKey: "rollback/agent/picker" };
  assert.equal(inhibitIncident(agent, deadEnd), agent);
  assert.equal(inhibitIncident(deadEnd, deadEnd), deadEnd, "nothing inhibits itself");
});

test("N2: a notification inhibits no page, a page both", () => {
  const notified = told(deadEnd, "notify");
  assert.equal(inhibitIncident(rolledBack, notified), rolledBack);
  const byHand: Incident = { ...rolledBack, severity: "notify" };
  assert.deepEqual([inhibitIncident(byHand, notified), inhibitIncident(byHand, deadEnd)], [null, null]);
});

test("N3: what was over while it waited is told nobody, and the end of what was told is told", () => {
  const over: Incident = { ...rolledBack, status: "resolved" };
  const closed = inhibitIncident(over, deadEnd);
  assert.deepEqual(closed, { ...over, notifyAtMs: null });
  assert.equal(inhibitIncident(closed as Incident, deadEnd), closed, "once");
  const known = told(over, "page");
  assert.equal(inhibitIncident(known, deadEnd), known);
});
