// What a container of the image `service` runs: the service that its command names, under the container's own name.
//   node infra/docker/main.mjs prober
// And two that are no services: `keeper` makes the consumers of a bus with permissions, `credentials` its keys, and ends.
import { existsSync } from "node:fs";
import { hostname } from "node:os";

const [service = ""] = process.argv.slice(2);
const folder = ["keeper", "credentials"].includes(service) ? `packages/launcher/src/${service}` : `services/${service}/src`;
const main = new URL(`../../${folder}/main.ts`, import.meta.url);
if (!/^[a-z-]+$/.test(service) || !existsSync(main)) {
  process.stderr.write(
    `${JSON.stringify(service)} is not a service of mcp-failover: give one of those in services/ as the container's command\n`,
  );
  process.exit(2);
}
// Several containers of one service tell themselves apart by it, also after `--scale`; it stays when a container is started again.
process.env["MCPF_INSTANCE"] ??= `${service}-${hostname().replaceAll(/[^A-Za-z0-9_-]/g, "-")}`.slice(0, 64);
// What runs reads its own arguments.
process.argv.splice(2, 1);
await import(main.href);
