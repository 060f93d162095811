import { describe } from "node:test";
import { behaviour } from "./behaviour.ts";
import { natsWorld } from "./nats-world.ts";

describe("the bus on NATS", { concurrency: 4 }, () => behaviour(natsWorld));
