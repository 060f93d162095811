import { get } from "node:http";
import { connect } from "node:net";

const waitMs = 1000;

/** Whether something accepts connections on a port of this machine; with `say`, whether it answers that with `expect` first. */
export function answersOn(port: number, say?: { text: string; expect: string }): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    const end = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(waitMs, () => end(false));
    socket.once("error", () => end(false));
    socket.once("connect", () => {
      if (say === undefined) end(true);
      else socket.write(say.text);
    });
    socket.once("data", (chunk: Buffer) => end(say !== undefined && chunk.toString().startsWith(say.expect)));
    socket.once("end", () => end(false));
  });
}

/** Asks by HTTP on this machine; null when there is no answer. At most 256 KiB of the body are read. */
export function askHttp(url: string): Promise<{ status: number; body: string } | null> {
  return new Promise((resolve) => {
    const request = get(url, { agent: false, timeout: waitMs }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (text: string) => {
        if (body.length < 256 * 1024) body += text;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
      response.on("error", () => resolve(null));
    });
    request.on("timeout", () => request.destroy());
    request.on("error", () => resolve(null));
  });
}
