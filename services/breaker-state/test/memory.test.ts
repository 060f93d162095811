import { describeBreakerState, memory } from "./breaker-state.ts";

describeBreakerState(memory);
