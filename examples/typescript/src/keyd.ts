// keyd as the signer of any library that lets you bring your own: it takes the signature base, and returns raw octets.

import { fileURLToPath } from 'node:url';

import { credentials, loadPackageDefinition, status, type ServiceError } from '@grpc/grpc-js';
import { loadSync, type MessageTypeDefinition } from '@grpc/proto-loader';

// The keyd protos: those of this repository, or wherever you keep your copy.
const protos = process.env.KEYD_PROTOS ?? fileURLToPath(new URL('../../../protos', import.meta.url));
const errors = fileURLToPath(new URL('../proto/errors.proto', import.meta.url));
const definitions = loadSync(['keyd/v1/signing_service.proto', errors], { includeDirs: [protos], enums: String, defaults: true });
const { SigningService } = (loadPackageDefinition(definitions) as any).keyd.v1;

/** One version of a key. `sign` asks keyd. */
export interface Signer {
  /** The kid: the value of the signature parameter `keyid`. */
  keyid: string;
  /** Name in the HTTP Signature Algorithms registry. */
  alg: 'ed25519' | 'ecdsa-p256-sha256' | 'ecdsa-p384-sha384' | 'rsa-pss-sha512' | 'rsa-v1_5-sha256';
  /** Returns raw octets, as RFC 9421 section 3.3 defines them. */
  sign(base: string | Uint8Array): Promise<Buffer>;
}

/** keyd said no. `reason` is stable, such as `AUTHORITY`; empty when the answer did not come from keyd itself. */
export class KeydError extends Error {
  constructor(message: string, readonly code: number, readonly reason: string, readonly metadata: Record<string, string>) {
    super(message);
  }
}

export class Keyd {
  readonly #stub: any;
  readonly #timeout: number;
  readonly #known = new Map<string, { signer: Signer; until: number }>();

  /** `address` is a Unix socket, such as `unix:/run/keyd/keyd.sock`; `timeout`, in milliseconds, is that of one call. */
  constructor(address: string, timeout = 5000) {
    if (!address.startsWith('unix:')) throw new Error(`${address} is no Unix socket; over TCP use credentials.createSsl`);
    this.#stub = new SigningService(address, credentials.createInsecure());
    this.#timeout = timeout;
  }

  close(): void {
    this.#stub.close();
  }

  /**
   * Calls `build` with the active version of a key. When that was rotated out in between, calls it once more with its successor:
   * a base names its kid, so it has to be built again.
   */
  async signing<T>(key: string, build: (signer: Signer) => Promise<T>): Promise<T> {
    try {
      return await build(await this.#signer(key));
    } catch (error) {
      if (!(error instanceof KeydError && error.reason === 'KEY_STATE')) throw error;
      this.#known.delete(key);
      return build(await this.#signer(key));
    }
  }

  async #signer(key: string): Promise<Signer> {
    const known = this.#known.get(key);
    if (known && Date.now() < known.until) return known.signer;
    const info = await this.#call('getKey', { key });
    if (!info.active) throw new KeydError(`key ${key} has no active version`, status.FAILED_PRECONDITION, 'KEY_STATE', {});
    const keyid: string = info.active.kid;
    const sign = async (base: string | Uint8Array) =>
      (await this.#call('sign', { key, kid: keyid, signatureBase: Buffer.from(base as string) })).signature as Buffer;
    const signer: Signer = { keyid, alg: info.httpAlgorithm, sign };
    this.#known.set(key, { signer, until: Date.now() + 60_000 });
    return signer;
  }

  #call(method: 'getKey' | 'sign', request: object): Promise<any> {
    return new Promise((resolve, reject) => {
      this.#stub[method](request, { deadline: Date.now() + this.#timeout }, (error: ServiceError | null, answer: unknown) =>
        error ? reject(keydError(error)) : resolve(answer));
    });
  }
}

function keydError(error: ServiceError): KeydError {
  for (const trailer of error.metadata?.get('grpc-status-details-bin') ?? []) {
    for (const detail of decode('google.rpc.Status', trailer as Buffer).details) {
      if (!detail.type_url.endsWith('/google.rpc.ErrorInfo')) continue;
      const info = decode('google.rpc.ErrorInfo', detail.value);
      if (info.domain === 'keyd') return new KeydError(error.details, error.code, info.reason, info.metadata);
    }
  }
  return new KeydError(error.message, error.code, '', {});
}

function decode(message: string, data: Buffer): any {
  return (definitions[message] as MessageTypeDefinition<object, object>).deserialize(data);
}
