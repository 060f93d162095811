import type { Topology } from "@mcp-failover/contracts";

/** Host names and origins that clients may use besides loopback: those of `router:`, and the hosts of its public URLs. */
export interface Access {
  readonly hosts: readonly string[];
  readonly origins: readonly string[];
}

export function accessOf(router: Topology["router"]): Access {
  const { allowed_hosts: allowed, allowed_origins: origins, public_urls: urls } = router;
  return { hosts: [...allowed.map((host) => host.toLowerCase()), ...urls.map((url) => new URL(url).hostname)], origins };
}
