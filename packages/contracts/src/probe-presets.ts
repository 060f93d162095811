import type { EndpointProbe } from "./probe-config.ts";

/**
 * How known services are probed, from their own documentation. Nothing here changes anything there.
 *
 * - `pinecone`: `POST /describe_index_stats`. A wrong key is 401.
 *   https://docs.pinecone.io/reference/api/2026-07/data-plane/describeindexstats
 * - `neo4j_http`: the discovery document at `/`, which a server gives without credentials. The `/db/data/` of older guides left with Neo4j 4.
 *   https://neo4j.com/docs/query-api/current/endpoints
 * - `neo4j_bolt`: Bolt at port 7687 with log on, over TLS where the endpoint has https. https://neo4j.com/docs/bolt/current/bolt/handshake/
 * - `neo4j`: both; without Bolt it is degraded, because what goes by HTTP is still served.
 * - `graphlit`: GraphQL's `{ __typename }`, which costs the server nothing; GraphQL tells errors with status 200.
 *   https://docs.graphlit.dev/api-reference/authentication, https://graphql.github.io/graphql-over-http/draft/
 * - `tavily`: `POST /search` costs a credit each (6 million a year at every 5 s). So the regular probe asks for one character, which the API
 *   refuses: 400 and `{ detail: { error: "Query is too short. Min query length is 2 characters." } }`. A real search with one result is made
 *   once an hour, so that a spent plan (432, 433) is known. https://docs.tavily.com/documentation/api-reference/endpoint/search,
 *   https://help.tavily.com/articles/8645538886-understanding-http-errors, https://github.com/rikkahub/rikkahub/issues/1481
 */
export const probePresetNames = ["pinecone", "neo4j", "neo4j_http", "neo4j_bolt", "graphlit", "tavily"] as const;
export type ProbePresetName = (typeof probePresetNames)[number];

const json = { "content-type": "application/json", accept: "application/json" } as const;
const neo4jHttp: EndpointProbe = {
  type: "http",
  method: "GET",
  path: "/",
  headers: { accept: "application/json" },
  expect: [
    { of: "status", equals: 200, severity: "hard" },
    { of: "json", path: "$.neo4j_version", exists: true, severity: "hard" },
  ],
};
const neo4jBolt: EndpointProbe = { type: "bolt" };
const hourMs = 3_600_000;

export const probePresets: Readonly<Record<ProbePresetName, EndpointProbe>> = {
  pinecone: {
    type: "http",
    method: "POST",
    path: "/describe_index_stats",
    headers: { ...json, "x-pinecone-api-version": "2026-07" },
    body: {},
    expect: [
      { of: "status", equals: 200, severity: "hard" },
      { of: "json", path: "$['totalVectorCount','namespaces']", exists: true, severity: "hard" },
    ],
  },
  neo4j: { ...neo4jHttp, checks: [{ ...neo4jBolt, severity: "degraded" }] },
  neo4j_http: neo4jHttp,
  neo4j_bolt: neo4jBolt,
  graphlit: {
    type: "http",
    method: "POST",
    path: "",
    headers: json,
    body: { query: "{ __typename }" },
    expect: [
      { of: "status", equals: 200, severity: "hard" },
      { of: "json", path: "$.errors", exists: false, severity: "hard" },
      { of: "json", path: "$.data.__typename", exists: true, severity: "hard" },
    ],
  },
  tavily: {
    type: "http",
    method: "POST",
    path: "/search",
    headers: json,
    body: { query: "1" },
    expect: [
      { of: "status", in: [200, 400, 422], severity: "hard" },
      { of: "json", path: "$['detail','results']", exists: true, severity: "hard" },
    ],
    checks: [
      {
        type: "http",
        method: "POST",
        path: "/search",
        headers: json,
        body: { query: "status", search_depth: "basic", max_results: 1 },
        expect: [
          { of: "status", equals: 200, severity: "hard" },
          { of: "json", path: "$.results", exists: true, severity: "hard" },
        ],
        severity: "degraded",
        every_ms: hourMs,
      },
    ],
  },
};
