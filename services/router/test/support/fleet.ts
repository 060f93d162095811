import { memoryBroker } from "@mcp-failover/bus";
import { testKit } from "@mcp-failover/service-kit/testing";
import type { RouterControl } from "../../src/control/port.ts";
import { createStreamClaims, hearCancellations, hearChanges, serveStreamClaims } from "../../src/mcp/claims.ts";
import { createMemoryDirectory, type SessionDirectory } from "../../src/mcp/directory.ts";
import { createSealer } from "../../src/mcp/seal.ts";
import { startTestRouter, type TestRouter } from "./router.ts";

const secret = "a secret of the tests that is long enough";

export interface TestFleet {
  readonly one: TestRouter;
  readonly two: TestRouter;
  close(): Promise<void>;
}

/** Two router processes that hear of each other, and have a directory in common. */
export async function startTestFleet(
  control: () => RouterControl,
  directory: SessionDirectory = createMemoryDirectory(),
): Promise<TestFleet> {
  const broker = memoryBroker({ nowMs: () => Date.now() });
  const sealer = createSealer(secret);
  const closings: (() => Promise<void>)[] = [];
  const start = async (instance: string): Promise<TestRouter> => {
    const bus = broker.connect();
    const kit = testKit({ service: "router", bus, instance });
    const router = await startTestRouter(control(), { directory, claims: createStreamClaims(kit, sealer), secret });
    const hearing = [
      serveStreamClaims(kit, sealer, router.sessionByKey),
      hearCancellations(kit, sealer, router.sessionByKey),
      hearChanges(kit, sealer, router.sessionChanged),
    ];
    closings.push(async () => {
      for (const one of hearing) one.stop();
      await router.close(0);
      await bus.close();
    });
    return router;
  };
  return {
    one: await start("router-1"),
    two: await start("router-2"),
    async close() {
      for (const close of closings) await close();
    },
  };
}
