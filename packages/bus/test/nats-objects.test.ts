import { describe } from "node:test";
import { largeConfigurations } from "./behaviour/large.ts";
import { natsWorld } from "./nats-world.ts";

describe("the object store of NATS", { concurrency: 2 }, () => largeConfigurations(natsWorld));
