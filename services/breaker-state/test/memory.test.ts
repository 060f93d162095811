import { describe } from "node:test";
import { breakerStateBehaviour, memory } from "./breaker-state.ts";

describe("breaker-state on the memory bus", () => breakerStateBehaviour(memory));
