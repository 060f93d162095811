/** What the end of a connection, or a dial that failed, means for who reads `/readyz`: the cause as it was said, and what to do. */
export function whyLost(said: string, user: string | null): string {
  const who = user === null ? "this process" : `the user ${user}`;
  if (/authori[sz]ation|authentication|account/i.test(said))
    return `NATS refuses the credentials of ${who} (${said}): put its public key into the server's configuration and reload that, or give it new ones (infra/nats/README.md)`;
  if (/certificate|CERT_/i.test(said))
    return `TLS with NATS failed for ${who} (${said}): renew the certificate that is named, of server or client (infra/nats/README.md)`;
  return said;
}
