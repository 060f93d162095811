import { z } from "zod";
import { secretRef } from "./secret-ref.ts";

/** Names by which a variable would change how programs are loaded, instead of where they connect to. */
const dangerous =
  /^(PATH|IFS|ENV|BASH_ENV|SHELLOPTS|NODE_OPTIONS|PYTHONPATH|PYTHONSTARTUP|PERL5OPT|RUBYOPT|JAVA_TOOL_OPTIONS|(LD|DYLD|MCPF)_.*)$/;
const variable = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, "not a valid name of a variable")
  .refine((name) => !dangerous.test(name), "this variable changes how programs are loaded: choose another name");

/** Variables by what of the active endpoint they hold. `host`: host and port of its URL. */
export const upstreamVariables = z.record(variable, z.enum(["url", "host", "name"]));
/** Variables of one endpoint; they win over the upstream's. */
export const endpointVariables = z.record(
  variable,
  z.union([
    z
      .string()
      .max(8192)
      .regex(/^[^\0]*$/, "a variable cannot hold a NUL"),
    secretRef,
  ]),
);
