// A resource that takes signed requests and no others: it knows the URL of a JWK Set, and verifies with the npm libraries alone.
//
// Environment: JWKS_URL; PORT, by default any. Prints the port. Beyond this an API should remember nonces until the signature expires.

import { createHash, createPublicKey, webcrypto, type JsonWebKey } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';

import { createVerifier, httpbis } from 'http-message-signatures';
import { verify, type VerificationParams } from 'web-bot-auth';
import { verifierFromJWK } from 'web-bot-auth/crypto';

globalThis.crypto ??= webcrypto as Crypto; // Node 18 has it elsewhere

type Jwk = JsonWebKey & { kid: string; alg: string };
const algorithms: Record<string, string> = {
  Ed25519: 'ed25519', EdDSA: 'ed25519', ES256: 'ecdsa-p256-sha256', ES384: 'ecdsa-p384-sha384',
  PS512: 'rsa-pss-sha512', RS256: 'rsa-v1_5-sha256',
};
const { JWKS_URL, PORT = '0' } = process.env;
if (!JWKS_URL) throw new Error('set JWKS_URL to the JWK Set of the signers');
let jwks: { keys: Jwk[]; freshUntil: number } = { keys: [], freshUntil: 0 };

/** Looks a key up in the set, which is kept for its max-age: a kid that is not in it never causes a request. */
async function keyOf(kid: unknown): Promise<Jwk> {
  if (Date.now() >= jwks.freshUntil) {
    const response = await fetch(JWKS_URL!);
    const maxAge = /max-age=(\d+)/.exec(response.headers.get('cache-control') ?? '')?.[1];
    jwks = { keys: ((await response.json()) as { keys: Jwk[] }).keys, freshUntil: Date.now() + Number(maxAge ?? 60) * 1000 };
  }
  const jwk = jwks.keys.find((key) => key.kid === kid);
  if (!jwk) throw new Error(`unknown kid ${kid}`);
  return jwk;
}

function verifierOf(jwk: Jwk) {
  return createVerifier(createPublicKey({ key: jwk, format: 'jwk' }), algorithms[jwk.alg] as never);
}

interface Received { method: string; url: string; headers: Record<string, string> }

async function verifyWithWebBotAuth(request: Received): Promise<string> {
  await verify(request, async (base: string, signature: Uint8Array, params: VerificationParams) => {
    const lines = base.split('\n');
    for (const component of ['@method', '@authority', '@path']) {
      if (!lines.some((line) => line.startsWith(`"${component}": `))) throw new Error(`${component} is not covered`);
    }
    const jwk = await keyOf(params.keyid);
    if (jwk.kty !== 'EC') return (await verifierFromJWK(jwk as never))(base, signature, params);
    if (!(await verifierOf(jwk)(Buffer.from(base), Buffer.from(signature)))) throw new Error('invalid signature'); // ECDSA it leaves to you
  });
  return 'web-bot-auth';
}

async function verifyWithHttpMessageSignatures(request: Received, body: Buffer): Promise<string> {
  const requiredFields = ['@method', '@authority', '@path', '@query', ...(body.length ? ['content-digest'] : [])];
  const verified = await httpbis.verifyMessage(
    {
      keyLookup: async ({ keyid }) => {
        const jwk = await keyOf(keyid);
        return { id: jwk.kid, algs: [algorithms[jwk.alg]!], verify: verifierOf(jwk) };
      },
      requiredParams: ['created', 'expires', 'keyid'],
      requiredFields,
      maxAge: 60,
      all: true,
    },
    request,
  );
  if (verified !== true) throw new Error('invalid signature');
  const digest = `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
  if (body.length && request.headers['content-digest'] !== digest) throw new Error('the body is not the one that was signed');
  return 'http-message-signatures';
}

async function verified(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const headers = incoming.headers as Record<string, string>;
  const request = { method: incoming.method!, url: `http://${headers.host}${incoming.url}`, headers };
  return headers['signature-input']?.includes(';tag="web-bot-auth"')
    ? verifyWithWebBotAuth(request)
    : verifyWithHttpMessageSignatures(request, Buffer.concat(chunks));
}

const server = createServer((request, response) => {
  verified(request).then(
    (library) => response.writeHead(200).end(`verified by ${library}\n`),
    (error) => response.writeHead(401).end(`${error.message}\n`),
  );
});
server.listen(Number(PORT), '127.0.0.1', () => console.log((server.address() as AddressInfo).port));
