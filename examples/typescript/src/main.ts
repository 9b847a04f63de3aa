// Signs a GET with npm web-bot-auth and a POST with npm http-message-signatures, through keyd, and sends them.
//
// Environment: KEYD_ADDRESS, such as unix:/run/keyd/keyd.sock; KEYD_KEY, the name of the key; RESOURCE_URL.
// Exit code: 0 when the resource took both requests, 1 when keyd or the resource refused one.

import * as httpMessageSignatures from './http-message-signatures.js';
import { Keyd, KeydError } from './keyd.js';
import * as webBotAuth from './web-bot-auth.js';

const { KEYD_ADDRESS = 'unix:/run/keyd/keyd.sock', KEYD_KEY = 'my-agent', RESOURCE_URL } = process.env;
if (!RESOURCE_URL) throw new Error('set RESOURCE_URL to where the requests shall go');
const url = new URL(RESOURCE_URL);
const keyd = new Keyd(KEYD_ADDRESS);

const requests: [string, () => Promise<Response>][] = [
  ['web-bot-auth', () => webBotAuth.get(keyd, KEYD_KEY, url)],
  ['http-message-signatures', () => httpMessageSignatures.post(keyd, KEYD_KEY, url, JSON.stringify({ item: 7 }))],
];
try {
  for (const [library, send] of requests) {
    const response = await send();
    console.log(`${library}: ${response.status} ${await response.text()}`);
    if (!response.ok) process.exitCode = 1;
  }
} catch (error) {
  if (!(error instanceof KeydError)) throw error;
  console.log(`keyd signed nothing: ${error.reason || 'no answer'}: ${error.message}`);
  process.exitCode = 1;
} finally {
  keyd.close();
}
