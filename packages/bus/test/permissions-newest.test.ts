import { test } from "node:test";
import { newestNats } from "@mcp-failover/testkit";
import { permissions } from "./permissions.ts";

const newest = newestNats();
if ("binary" in newest) permissions(newest.binary);
else test("permissions on the newest nats-server", { skip: newest.missing }, () => undefined);
