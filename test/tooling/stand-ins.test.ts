import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";

const standIns = new URL("../../scripts/lib/stand-ins.mjs", import.meta.url).href;
const version = "2.15.2";

/** Debian's Go: it cannot read the server's go.mod, and can fetch modules, such as a newer Go. */
const oldGo = (toolchain: string) => `#!/bin/sh
case "$1 $2" in
version*) echo "go version go1.19.8 linux/amd64" ;;
"mod download") printf '{"Dir":"%s"}' "${toolchain}" ;;
*) echo "go.mod:3: invalid go version '1.26.0': must match format 1.23" >&2; exit 1 ;;
esac
`;
const newGo = `#!/bin/sh\n[ "$1" = install ] && [ "$CGO_ENABLED" = 0 ] && printf 'built by the fetched Go' > "$GOBIN/nats-server"\n`;

/** What the stand-in's nats-server is on a machine with Debian's Go. `prepare` gets the cache folder of the user. */
async function natsServerWithOldGo(prepare: (cache: string) => void): Promise<string> {
  const { path, remove } = await tempDir("mcpf-stand-ins-");
  try {
    const programs = join(path, "programs");
    const toolchain = join(path, "toolchain");
    for (const folder of [programs, join(path, "context"), join(toolchain, "bin"), join(toolchain, "pkg/tool")])
      mkdirSync(folder, { recursive: true });
    writeFileSync(join(programs, "go"), oldGo(toolchain), { mode: 0o755 });
    // As the module proxy gives it: nothing in it may be run.
    writeFileSync(join(toolchain, "bin/go"), newGo, { mode: 0o444 });
    const cache = join(path, "cache");
    prepare(cache);
    const call = `natsInto("${version}", ${JSON.stringify(join(path, "context"))}, console.log)`;
    const script = `const { natsInto } = await import(${JSON.stringify(standIns)}); ${call};`;
    const env = { PATH: `${programs}:/usr/bin:/bin`, TMPDIR: path, XDG_CACHE_HOME: cache, MCPF_IMAGE_CACHE: join(path, "images") };
    const ran = spawnSync(process.execPath, ["--input-type=module", "-e", script], { env, encoding: "utf8" });
    assert.equal(ran.status, 0, ran.stderr);
    chmodSync(join(toolchain, "bin/go"), 0o644);
    // Debian's is eleven megabytes.
    return readFileSync(join(path, "context/nats-server")).subarray(0, 40).toString("latin1");
  } finally {
    await remove();
  }
}

test("the nats-server that was built for the other tests is the stand-in's as well: Debian's Go cannot build it", async () => {
  const told = await natsServerWithOldGo((cache) => {
    const folder = join(cache, "mcpf", `nats-server-${version}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "nats-server"), "built before");
  });
  assert.equal(told, "built before");
});

test("where only Debian's Go is, the stand-in's nats-server is built by a newer one from the module proxy", async () => {
  assert.equal(await natsServerWithOldGo(() => undefined), "built by the fetched Go");
});
