import { createPrivateKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";

/** A certificate and its private key, as PEM. */
export interface Certified {
  readonly cert: string;
  readonly key: string;
}
/** Who a certificate is for, and until when. */
export interface CertificateOptions {
  readonly name: string;
  /** DNS names and IPv4 addresses that a server answers under. */
  readonly hosts?: readonly string[];
  readonly fromMs: number;
  readonly untilMs: number;
}

/** A certification authority for development: an EC key on P-256 and a certificate that signs itself. By hand, so that no program is needed. */
export function makeAuthority(options: CertificateOptions): Certified {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const extensions = [
    extension("2.5.29.19", sequence(der(0x01, Buffer.from([0xff]))), true),
    // keyCertSign and cRLSign.
    extension("2.5.29.15", der(0x03, Buffer.from([1, 0x06])), true),
  ];
  return {
    key,
    cert: certificate({
      ...options,
      issuer: options.name,
      issuerKey: key,
      publicKey: publicKey.export({ type: "spki", format: "der" }),
      extensions,
    }),
  };
}

/** A certificate of a server or client, signed by the authority. */
export function issue(authority: Certified & { readonly name: string }, options: CertificateOptions): Certified {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const hosts = options.hosts ?? [options.name];
  const alternatives = hosts.map((host) =>
    /^\d+\.\d+\.\d+\.\d+$/.test(host) ? der(0x87, Buffer.from(host.split(".").map(Number))) : der(0x82, Buffer.from(host)),
  );
  const extensions = [
    extension("2.5.29.19", sequence(), true),
    extension("2.5.29.15", der(0x03, Buffer.from([7, 0x80])), true),
    // serverAuth and clientAuth: nodes of a cluster are both.
    extension("2.5.29.37", sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2"))),
    extension("2.5.29.17", sequence(...alternatives)),
  ];
  const spki = publicKey.export({ type: "spki", format: "der" });
  return {
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    cert: certificate({ ...options, issuer: authority.name, issuerKey: authority.key, publicKey: spki, extensions }),
  };
}

function certificate(
  options: CertificateOptions & { issuer: string; issuerKey: string; publicKey: Buffer; extensions: readonly Buffer[] },
): string {
  const algorithm = sequence(oid("1.2.840.10045.4.3.2"));
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([1, ...randomBytes(15)])),
    algorithm,
    nameOf(options.issuer),
    sequence(time(options.fromMs), time(options.untilMs)),
    nameOf(options.name),
    options.publicKey,
    der(0xa3, sequence(...options.extensions)),
  );
  const signature = sign("sha256", body, createPrivateKey(options.issuerKey));
  const whole = sequence(body, algorithm, der(0x03, Buffer.concat([Buffer.from([0]), signature])));
  const lines = whole.toString("base64").match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}

function extension(id: string, content: Buffer, critical = false): Buffer {
  return sequence(oid(id), ...(critical ? [der(0x01, Buffer.from([0xff]))] : []), der(0x04, content));
}
function nameOf(name: string): Buffer {
  return sequence(der(0x31, sequence(oid("2.5.4.3"), der(0x0c, Buffer.from(name)))));
}
function der(tag: number, content: Buffer): Buffer {
  const { length } = content;
  const head = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...head]), content]);
}
function sequence(...parts: Buffer[]): Buffer {
  return der(0x30, Buffer.concat(parts));
}
/** UTCTime until 2049, GeneralizedTime after it (RFC 5280). */
function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/[-:T]/g, "").slice(0, 14);
  return Number(digits.slice(0, 4)) < 2050 ? der(0x17, Buffer.from(`${digits.slice(2)}Z`)) : der(0x18, Buffer.from(`${digits}Z`));
}
function oid(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split(".").map(Number);
  const bytes = rest.flatMap((part) => {
    const septets = [part & 0x7f];
    for (let left = part >> 7; left > 0; left >>= 7) septets.unshift((left & 0x7f) | 0x80);
    return septets;
  });
  return der(0x06, Buffer.from([first * 40 + second, ...bytes]));
}
