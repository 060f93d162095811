import type { RouterControl } from "../../src/control/port.ts";
import type { FakeControl } from "./fake-control.ts";

/** Several upstreams, each with a control of its own. */
export function controlOf(upstreams: Record<string, FakeControl>): FakeControl {
  const viewOf: RouterControl["upstream"] = (name) => {
    const view = upstreams[name]?.upstream("fake") ?? null;
    return view && { ...view, name };
  };
  const first = Object.values(upstreams)[0] as FakeControl;
  return Object.assign(Object.create(first) as FakeControl, {
    upstream: viewOf,
    upstreams: () => Object.keys(upstreams),
    begin: (call: Parameters<RouterControl["begin"]>[0]) => (upstreams[call.upstream] as FakeControl).begin(call),
    onRouteChange: () => () => undefined,
  });
}
