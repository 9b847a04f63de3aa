"""ExternalJWTSigner: what kube-apiserver calls to have service account tokens signed and verified."""

from __future__ import annotations

from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from keyd.core import jws, succession
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.kubernetes import ServiceAccounts
from keyd.core.signing import Signer
from keyd.externaljwt.v1 import api_pb2 as pb
from keyd.service.call import Call


class ExternalJwtSigner:
    """Signs claims as they come, with one key, for callers who have a grant for it."""

    def __init__(self, accounts: ServiceAccounts, keyring: Keyring, signer: Signer, guard: Guard) -> None:
        self._accounts = accounts
        self._keyring = keyring
        self._signer = signer
        self._guard = guard

    async def sign(self, request: pb.SignJWTRequest, call: Call) -> pb.SignJWTResponse:
        """Sign one token."""
        accounts = self._accounts
        data, signed = await self._signer.sign_built(
            call.principal,
            accounts.rules.key,
            accounts.build(request.claims),
            within=call.seconds_left(),
            recheck=partial(accounts.recheck, accounts.rules),
        )
        return pb.SignJWTResponse(header=data.partition(b".")[0].decode(), signature=jws.b64url(signed.signature))

    async def fetch_keys(self, request: pb.FetchKeysRequest, call: Call) -> pb.FetchKeysResponse:
        """Return what verifies tokens. Any grant for the key will do. The successor of a compromised version is waited for, as in signing."""
        self._guard.policy.rights(call.principal).need(self._accounts.rules.key)
        await succession.wait(self._keyring, self._accounts.rules.key, call.seconds_left())
        found = self._accounts.key_set()
        seconds, nanos = divmod(found.changed_at, 1_000_000_000)
        return pb.FetchKeysResponse(
            keys=[
                pb.Key(key_id=key.kid, key=key.pkix, exclude_from_oidc_discovery=key.kid in found.excluded) for key in found.keys
            ],
            data_timestamp=Timestamp(seconds=seconds, nanos=nanos),
            refresh_hint_seconds=found.refresh,
        )

    async def metadata(self, request: pb.MetadataRequest, call: Call) -> pb.MetadataResponse:
        """Return the longest life of a token. Any grant for the key will do."""
        self._guard.policy.rights(call.principal).need(self._accounts.rules.key)
        return pb.MetadataResponse(max_token_expiration_seconds=self._accounts.max_token_expiration())
