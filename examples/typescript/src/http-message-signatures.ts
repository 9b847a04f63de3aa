// A request with a body, signed with npm http-message-signatures.

import { createHash, randomBytes } from 'node:crypto';

import { httpbis } from 'http-message-signatures';

import type { Keyd } from './keyd.js';

export async function post(keyd: Keyd, key: string, url: URL, body: string): Promise<Response> {
  const digest = createHash('sha256').update(body).digest('base64');
  const request = {
    method: 'POST',
    url,
    headers: { 'Content-Type': 'application/json', 'Content-Digest': `sha-256=:${digest}:` }, // RFC 9530
  };
  const signed = await keyd.signing(key, (signer) => {
    const created = new Date();
    return httpbis.signMessage(
      {
        key: { id: signer.keyid, alg: signer.alg, sign: signer.sign },
        name: 'sig1',
        fields: ['@method', '@authority', '@path', '@query', 'content-type', 'content-digest'],
        params: ['created', 'expires', 'keyid', 'alg', 'nonce'],
        paramValues: { created, expires: new Date(created.getTime() + 60_000), nonce: randomBytes(24).toString('base64url') },
      },
      request,
    );
  });
  return fetch(url, { method: 'POST', headers: signed.headers as Record<string, string>, body, redirect: 'manual' });
}
