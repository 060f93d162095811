import assert from "node:assert/strict";
import { test } from "node:test";
import { failureCode } from "@mcp-failover/contracts";
import { classifyHttpStatus, classifyMcpAnswer, classifyRpcError, classifyTransportError } from "@mcp-failover/domain";
import fc from "fast-check";

test("O1: a status is hard exactly from 500 on, and only a hard one has a failure code", () => {
  fc.assert(
    fc.property(fc.integer({ min: 100, max: 599 }), (httpStatus) => {
      const { outcome, code } = classifyHttpStatus(httpStatus);
      assert.equal(outcome === "hard", httpStatus >= 500);
      assert.equal(code, outcome === "hard" ? "http_5xx" : null);
    }),
  );
});

test("O1: 429 is soft, 401 and 403 are a matter of credentials, every other 4xx is the caller's", () => {
  const outcomes = [400, 401, 403, 404, 408, 413, 429, 200, 202, 304].map((status) => classifyHttpStatus(status).outcome);
  assert.deepEqual([classifyHttpStatus(499).outcome, classifyHttpStatus(500).outcome], ["caller", "hard"]);
  assert.deepEqual(outcomes, ["caller", "auth", "auth", "caller", "caller", "caller", "soft", "ok", "ok", "ok"]);
});

test("O2: no JSON-RPC error code and no isError result is ever held against the endpoint", () => {
  fc.assert(
    fc.property(fc.integer({ min: -40_000, max: 40_000 }), fc.boolean(), (rpcErrorCode, isError) => {
      assert.equal(classifyRpcError(rpcErrorCode).outcome, "caller");
      assert.equal(classifyMcpAnswer({ httpStatus: 200, rpcErrorCode, isError }).outcome, "caller");
      assert.equal(classifyMcpAnswer({ httpStatus: 200, rpcErrorCode: null, isError: true }).outcome, "caller");
    }),
  );
});

test("O2: wrong parameters are no error of the tool, an internal error and isError are", () => {
  const callers = [-32700, -32600, -32601, -32602, -32002, -32042, -32020, -32029];
  assert.deepEqual(
    callers.map((code) => classifyRpcError(code).toolError),
    callers.map(() => false),
  );
  assert.deepEqual(
    [-32603, -32000, -32099, 1].map((code) => classifyRpcError(code).toolError),
    [true, true, true, true],
  );
  assert.equal(classifyMcpAnswer({ httpStatus: 200, rpcErrorCode: null, isError: true }).toolError, true);
  assert.equal(classifyMcpAnswer({ httpStatus: 200, rpcErrorCode: null, isError: false }).outcome, "ok");
});

test("O1: a 5xx stays hard whatever JSON-RPC body came with it", () => {
  assert.deepEqual(classifyMcpAnswer({ httpStatus: 503, rpcErrorCode: -32602, isError: false }), {
    outcome: "hard",
    code: "http_5xx",
    toolError: false,
  });
});

test("O3: after the first byte only what can happen nowhere but in a connect proves that nothing ran", () => {
  for (const code of [
    "ECONNRESET",
    "EPIPE",
    "ETIMEDOUT",
    "UND_ERR_SOCKET",
    "UND_ERR_HEADERS_TIMEOUT",
    "HPE_INVALID_CONSTANT",
    "EHOSTUNREACH",
    undefined,
  ]) {
    assert.equal(classifyTransportError(code, "written").executed, "unknown", String(code));
    assert.equal(classifyTransportError(code, "connecting").executed, "no", String(code));
  }
  for (const code of ["ECONNREFUSED", "ENOTFOUND", "UND_ERR_CONNECT_TIMEOUT"])
    assert.equal(classifyTransportError(code, "written").executed, "no", code);
});

test("each transport error has the name that operators grep for", () => {
  const said = (code: string) => classifyTransportError(code, "written").code;
  assert.equal(said("ECONNREFUSED"), "refused");
  assert.equal(said("ECONNRESET"), "reset");
  assert.equal(said("UND_ERR_SOCKET"), "closed");
  assert.equal(said("UND_ERR_BODY_TIMEOUT"), "timeout");
  assert.equal(said("EAI_AGAIN"), "dns");
  assert.equal(said("CERT_HAS_EXPIRED"), "tls");
  assert.equal(said("HPE_INVALID_CHUNK_SIZE"), "malformed");
  assert.equal(said("ENETUNREACH"), "unreachable");
  assert.equal(said("toString"), "other");
  fc.assert(fc.property(fc.string(), (code) => failureCode.options.includes(said(code))));
});
