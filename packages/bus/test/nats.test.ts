import { behaviour } from "./behaviour.ts";
import { natsWorld } from "./nats-world.ts";

behaviour("NATS", 4, natsWorld);
