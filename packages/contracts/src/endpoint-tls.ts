import { z } from "zod";

const file = z
  .string()
  .max(1000)
  .regex(/^\/[^\0]*$/, "give an absolute path on the router's machine");

/** `tls:` of an endpoint: what its certificate is checked by, and the certificate that the router shows (mTLS). Files of the router's machine, and of the probers'. */
export const endpointTls = z
  .strictObject({
    /** Certificates of the authorities that may have signed the server's; without it those of the system. */
    ca_file: file.optional(),
    /** The router's own certificate, with what is between it and its authority. */
    cert_file: file.optional(),
    key_file: file.optional(),
    /** The name in the server's certificate, where it is not the host of the URL. */
    server_name: z.hostname().optional(),
  })
  .refine(({ cert_file: cert, key_file: key }) => (cert === undefined) === (key === undefined), {
    path: ["key_file"],
    error: "give cert_file and key_file together",
  });
export type EndpointTls = z.infer<typeof endpointTls>;
