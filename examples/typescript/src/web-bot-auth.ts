// A request signed with npm web-bot-auth. The key may have the profile web-bot-auth.

import { webcrypto } from 'node:crypto';

import { signatureHeaders } from 'web-bot-auth';

import type { Keyd } from './keyd.js';

globalThis.crypto ??= webcrypto as Crypto; // Node 18 has it elsewhere, and web-bot-auth makes its nonces with it

export async function get(keyd: Keyd, key: string, url: URL): Promise<Response> {
  const request = new Request(url);
  // The library leaves out the "?" that RFC 9421 section 2.2.7 wants of a URL without a query: cover @query where there is one.
  const components = ['@method', '@authority', '@path', ...(url.search ? ['@query'] : [])];
  const signed = await keyd.signing(key, (signer) => {
    const created = new Date();
    const expires = new Date(created.getTime() + 60_000);
    return signatureHeaders(request, signer, { created, expires, components });
  });
  return fetch(request, { headers: { ...signed }, redirect: 'manual' });
}
