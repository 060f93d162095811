import { once } from "node:events";
import { createServer } from "node:http";
import { CredentialsError, connectBus, keepConsumersOn, readCredentials } from "@mcp-failover/bus";
import { baseEnvironment, EnvironmentError, parseEnvironment } from "@mcp-failover/service-kit";

// The keeper of docs/adr/0009 as a process of its own, for stacks without a launcher. It keeps nothing; several may run.
process.exitCode = await main();

async function main(): Promise<number> {
  try {
    const environment = parseEnvironment(baseEnvironment, process.env);
    const folder = environment.MCPF_CREDENTIALS_DIR;
    if (folder === undefined)
      throw new CredentialsError("MCPF_CREDENTIALS_DIR is not set: give the folder `keeper` that `npm run dev:credentials` makes");
    const credentials = readCredentials(folder);
    const say = (level: "warn" | "debug") => (details: object, text: string) => {
      if (level === "warn" || environment.MCPF_LOG_LEVEL === "debug")
        process.stdout.write(`${JSON.stringify({ level, text, ...details })}\n`);
    };
    const log = { warn: say("warn"), debug: say("debug") };
    const bus = connectBus({
      servers: environment.NATS_URL,
      name: "keeper",
      instance: environment.MCPF_INSTANCE ?? "keeper",
      credentials,
      log,
    });
    const keeping = keepConsumersOn(bus, log);
    const health = createServer((_, response) => {
      const { kind } = bus.status;
      response.writeHead(kind === "connected" ? 200 : 503, { "content-type": "application/json" }).end(JSON.stringify({ bus: kind }));
    });
    health.listen(environment.MCPF_HEALTH_PORT, environment.MCPF_HEALTH_HOST);
    await once(health, "listening");
    process.stdout.write("keeper: makes consumers for those who may read\n");
    await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
    keeping.stop();
    await bus.close();
    health.close();
    health.closeAllConnections();
    return 0;
  } catch (error) {
    if (!(error instanceof EnvironmentError || error instanceof CredentialsError)) throw error;
    process.stderr.write(`keeper: ${error.message}\n`);
    return 2;
  }
}
