import assert from "node:assert/strict";
import { test } from "node:test";
import { topology } from "@mcp-failover/contracts";
import { targetsOf } from "../src/targets.ts";

const stdio = { command: "files", env: { TOKEN: { secret: "FILES_TOKEN" } } };
const configured = (router: object = {}) =>
  topology.parse({ upstreams: { files: { kind: "mcp", endpoints: [{ name: "local", stdio, tier: 0 }] } }, router });

test("a process of the router is looked at through the router, without credentials: by its own address of it, else the public one", () => {
  const urlOf = (router: object, given?: string): string | undefined =>
    [...targetsOf(configured(router), "development", given).values()][0]?.url;
  assert.equal(urlOf({}), "http://127.0.0.1:7300/probe/files/local");
  assert.equal(urlOf({ public_urls: ["https://mcp.example.com/"] }), "https://mcp.example.com/probe/files/local");
  assert.equal(urlOf({ public_urls: ["https://mcp.example.com/"] }, "http://10.0.0.1:7300"), "http://10.0.0.1:7300/probe/files/local");
  const [target] = [...targetsOf(configured(), "development").values()];
  assert.equal(target?.type, "http");
  assert.equal(target?.host, "127.0.0.1:7300");
  assert.doesNotMatch(JSON.stringify(target?.checks), /FILES_TOKEN/);
});
