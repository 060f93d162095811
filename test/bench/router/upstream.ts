// The server of `answering.ts` as a process of its own.
import type { AddressInfo } from "node:net";
import { answeringServer } from "./answering.ts";

const server = answeringServer();
server.listen(0, "127.0.0.1", () => process.send?.({ kind: "listening", port: (server.address() as AddressInfo).port }));
process.once("disconnect", () => process.exit(0));
