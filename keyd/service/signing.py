"""SigningService: what agents call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from math import isinf

from keyd.core import succession
from keyd.core.documents import Documents
from keyd.core.errors import InvalidArgumentError, KeyStateError, SizeError
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.publication import Issuer, Publication
from keyd.core.sessions.signing import SessionSigner, SignedBySession
from keyd.core.signing import InputKind, Signed, Signer
from keyd.service import convert
from keyd.service.call import Call
from keyd.service.many import Many
from keyd.service.watching import KeyStates, Watch
from keyd.v1 import signing_service_pb2 as pb

MAX_BATCH = 256
MAX_WATCHED = 1000

_KINDS = {
    "signature_base": InputKind.SIGNATURE_BASE,
    "jws_signing_input": InputKind.JWS_SIGNING_INPUT,
    "message": InputKind.MESSAGE,
}


class SigningService:
    """Signs what agents send and tells them what they must know to send it."""

    def __init__(
        self,
        keyring: Keyring,
        signer: Signer,
        sessions: SessionSigner,
        publication: Publication,
        guard: Guard,
        documents: Documents | None = None,
    ) -> None:
        self._keyring = keyring
        self._signer = signer
        self._sessions = sessions
        self._publication = publication
        self._guard = guard
        self._documents = documents
        self._states = KeyStates()
        self._many = Many(self._sign_into, signer.at_once, guard)

    async def sign(self, request: pb.SignRequest, call: Call) -> pb.SignResponse:
        """Sign one input."""
        response = pb.SignResponse()
        await self._sign_into(response, request, call)
        return response

    async def _sign_into(self, response: pb.SignResponse, request: pb.SignRequest, call: Call) -> None:
        """Sign one input and fill in the answer, in its place: to copy one into another takes longer than to make it."""
        field = request.WhichOneof("input")
        if field is None:
            raise InvalidArgumentError("set one of signature_base, jws_signing_input and message")
        data: bytes = getattr(request, field)
        if request.session:
            if request.key:
                raise InvalidArgumentError("set one of key and session, not both")
            _fill_of_session(
                response, await self._sessions.sign(call.principal, request.session, _KINDS[field], data, request.kid or None)
            )
        else:
            _fill(
                response,
                await self._signer.sign(
                    call.principal, request.key, _KINDS[field], data, request.kid or None, within=call.seconds_left()
                ),
            )

    async def sign_batch(self, request: pb.SignBatchRequest, call: Call) -> pb.SignBatchResponse:
        """Sign many inputs; one result each."""
        if not 1 <= len(request.requests) <= MAX_BATCH:
            raise SizeError(f"a batch has 1 to {MAX_BATCH} requests, got {len(request.requests)}")
        return await self._many.batch(request.requests, call)

    def sign_stream(self, requests: AsyncIterator[pb.SignStreamRequest], call: Call) -> AsyncIterator[pb.SignStreamResponse]:
        """Sign a stream of inputs, several at a time; answers come as they are ready."""
        return self._many.stream(requests, call)

    async def sign_jwt(self, request: pb.SignJWTRequest, call: Call) -> pb.SignJWTResponse:
        """Build and sign a JWT."""
        lifetime = convert.seconds(request.lifetime, "lifetime") if request.HasField("lifetime") else None
        token, signed = await self._signer.sign_jwt(
            call.principal,
            request.key,
            request.claims,
            typ=request.typ,
            kid=request.kid or None,
            lifetime=lifetime,
            within=call.seconds_left(),
        )
        return pb.SignJWTResponse(token=token, kid=signed.version.kid, version=signed.version.version)

    async def get_key(self, request: pb.GetKeyRequest, call: Call) -> pb.GetKeyResponse:
        """Return what an agent must know of a key. Any grant for the key will do.

        While the successor of a compromised version is being made, it is waited for: who was refused and asks anew gets that one.
        """
        self._guard.policy.rights(call.principal).need(request.key)
        await succession.wait(self._keyring, request.key, call.seconds_left())
        state, _ = self._states.of(self._keyring.snapshot.get(request.key), self._keyring.clock.now())
        return state

    async def get_jwks(self, request: pb.GetJWKSRequest, call: Call) -> pb.GetJWKSResponse:
        """Return a JWK Set as the JWKS endpoint serves it. Those of all keys and of an issuer are public; that of one key needs a grant."""
        if request.key and request.issuer:
            raise InvalidArgumentError("ask for the set of a key or of an issuer, not for both at once")
        if request.key:
            self._guard.policy.rights(call.principal).need(request.key)
        issuer = self._publication.issuer(request.issuer) if request.issuer else None
        document = self._publication.document(key=request.key or None, issuer=issuer)
        told = [] if request.key else [issuer] if issuer else self._publication.rules.issuers.values()
        return pb.GetJWKSResponse(
            document=document.body,
            etag=document.etag,
            max_age=convert.duration(document.max_age),
            issuers=[pb.Issuer(name=each.name, hosts=sorted(each.hosts)) for each in told],
            documents=_beside(issuer, self._documents) if issuer and self._documents else (),
        )

    async def watch_keys(self, request: pb.WatchKeysRequest, call: Call) -> AsyncIterator[pb.WatchKeysResponse]:
        """Send each watched key now and whenever it changes, by an operator's call or by the clock.

        It ends with the caller's grants: a reload that takes one away ends it with GrantError.
        """
        names = list(dict.fromkeys(request.keys))
        if not 1 <= len(names) <= MAX_WATCHED:
            raise SizeError(f"1 to {MAX_WATCHED} keys can be watched in one call, got {len(names)}")
        now = self._keyring.clock.now
        watch = Watch(self._states, names, now)
        checked, bell = None, self._keyring.bell(names)
        with bell:
            while True:
                news, snapshot, policy = bell.news(), self._keyring.snapshot, self._guard.policy
                if policy is not checked:
                    for name in names:
                        policy.rights(call.principal).need(name)
                    for name in names if checked is None else ():
                        snapshot.get(name)  # before the first answer, not after some
                for state in watch.news(snapshot, None if checked is None else news):
                    yield pb.WatchKeysResponse(key=state)
                checked = policy
                await bell.rung(None if isinf(watch.until) else max(0.001, watch.until - now()))


def _fill(response: pb.SignResponse, signed: Signed) -> None:
    version = signed.version
    response.signature = signed.signature
    response.kid = version.kid
    response.version = version.version
    response.algorithm, response.http_algorithm, response.jose_algorithm = convert.ALGORITHM_NAMES[signed.key.algorithm]


def _fill_of_session(response: pb.SignResponse, signed: SignedBySession) -> None:
    response.signature = signed.signature
    response.kid = signed.thumbprint
    response.algorithm = convert.ALGORITHMS[signed.algorithm]
    response.http_algorithm = signed.algorithm.http_name
    response.jose_algorithm = signed.algorithm.value


def _beside(issuer: Issuer, documents: Documents) -> Iterator[pb.WellKnownDocument]:
    for name in documents.names(issuer):
        answer = pb.WellKnownDocument(host=str(issuer.origin).removeprefix("https://"), name=name)
        try:
            document = documents.get(issuer, name)
            answer.content, answer.etag = document.body, document.etag
            answer.max_age.CopyFrom(convert.duration(document.max_age))
        except KeyStateError as exc:
            answer.failure = str(exc)
        yield answer
