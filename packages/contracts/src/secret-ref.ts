import { z } from "zod";

/** The name of a secret; its value comes from the environment or a file, in the one service that sends it. */
export const secretRef = z.strictObject(
  {
    secret: z.string().regex(/^[A-Z][A-Z0-9_]*$/, "name the environment variable: capitals, digits and '_'"),
    /** Put before the value: `Bearer `. */
    prefix: z.string().optional(),
  },
  {
    error: ({ code }) =>
      code === "invalid_type" ? "write { secret: NAME }, never the value itself: NAME is found where it is used" : undefined,
  },
);
export type SecretRef = z.infer<typeof secretRef>;

export const headers = z.record(
  z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, "not a valid header name"),
  z.union([z.string(), secretRef]),
);
export const milliseconds = (min: number, max: number) => z.number().int().min(min).max(max);
