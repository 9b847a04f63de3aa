// Reads requests and a directory's response from standard input, and prints what npm web-bot-auth and http-message-sig make of them.
import { readFileSync } from "node:fs";
import { verify as verifyMessage } from "http-message-sig";
import { jwkToKeyID, helpers, verify } from "web-bot-auth";
import { verifierFromJWK } from "web-bot-auth/crypto";

const input = JSON.parse(readFileSync(0, "utf8"));
const keys = JSON.parse(input.directory.body).keys;
const byThumbprint = new Map();
for (const key of keys) {
  byThumbprint.set(await jwkToKeyID(key, helpers.WEBCRYPTO_SHA256, helpers.BASE64URL_DECODE), key);
}

async function check(data, signature, params) {
  const key = byThumbprint.get(params.keyid);
  if (key === undefined) throw new Error("unknown key");
  const verifier = await verifierFromJWK({ ...key, alg: undefined });
  await verifier(data, signature, params);
  return params.keyid;
}

// The library reads one signature of a message, so each is given to it alone.
const one = (field, label) => field.split(/, (?=[a-z0-9]+=)/).find((member) => member.startsWith(`${label}=`));

const signers = [];
for (const [, label] of (input.directory.headers["signature-input"] ?? "").matchAll(/(binding\d+)=\(/g)) {
  const headers = { ...input.directory.headers };
  headers["signature-input"] = one(headers["signature-input"], label);
  headers["signature"] = one(headers["signature"], label);
  const response = { status: 200, headers };
  const request = { method: "GET", url: input.directory.url, headers: {} };
  try {
    signers.push(await verifyMessage({ request, response }, check));
  } catch (error) {
    signers.push(`refused: ${error.message}`);
  }
}

const requests = [];
for (const request of input.requests) {
  try {
    requests.push(await verify(request, check));
  } catch (error) {
    requests.push(`refused: ${error.message}`);
  }
}
console.log(JSON.stringify({ listed: [...byThumbprint.keys()], signers, requests }));
