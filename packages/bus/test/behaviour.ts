import { fence } from "./behaviour/fence.ts";
import { following } from "./behaviour/following.ts";
import { kept } from "./behaviour/kept.ts";
import { quarantined } from "./behaviour/quarantined.ts";
import { queued } from "./behaviour/queued.ts";
import { talking } from "./behaviour/talking.ts";
import type { MakeWorld } from "./behaviour/world.ts";

/** The one suite that both adapters are held to; the numbers are those of the port, `src/bus.ts`. Each test has a world of its own. */
export function behaviour(makeWorld: MakeWorld): void {
  fence(makeWorld);
  following(makeWorld);
  quarantined(makeWorld);
  queued(makeWorld);
  talking(makeWorld);
  kept(makeWorld);
}
