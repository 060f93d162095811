export { clientContext, tlsKey } from "@mcp-failover/service-kit";
