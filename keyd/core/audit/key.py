"""The dedicated key that signs checkpoints: a key of the keyring like others, of purpose ``audit``."""

from __future__ import annotations

import json
from math import isfinite

from backends.api import Algorithm
from keyd.core.audit.checkpoints import TYPE, compact
from keyd.core.errors import AlreadyExistsError, ConflictError, InvalidArgumentError, KeydError
from keyd.core.jwks import public_jwk
from keyd.core.jws import b64url
from keyd.core.keyring import Keyring
from keyd.core.model import Key, KidFormat, Purpose
from keyd.core.snapshot import KeyView
from keyd.core.timeline import LifecyclePolicy

#: In the order of preference: the first that the backend does.
_ALGORITHMS = (Algorithm.ED25519, Algorithm.ES256, Algorithm.ES384, Algorithm.PS512, Algorithm.RS256)
#: How often to look for a key that another process is making, and how long to wait in between, in seconds.
_LOOKS, _BETWEEN = 8, 0.25


class AuditKey:
    """Signs with the audit key, which is made when it is first needed."""

    def __init__(self, keyring: Keyring, name: str, backend: str, profile: str, lifecycle: LifecyclePolicy) -> None:
        """``profile`` and ``lifecycle`` are those that a new key gets."""
        self.name = name
        self._keyring = keyring
        self._backend = backend
        self._profile = profile
        self._lifecycle = lifecycle

    def check(self) -> None:
        """Raise InvalidArgumentError when a key of this name is there and is not one for the audit trail."""
        view = self._keyring.snapshot.keys.get(self.name)
        if view is not None and view.key.purposes != {Purpose.AUDIT}:
            raise InvalidArgumentError(f"key {self.name!r} was not made for the audit trail; set audit.key to another name")

    async def sign(self, payload: bytes) -> str:
        """Return the compact JWS of a payload. Raises KeydError."""
        view = await self._view()
        version = view.signer(None, self._keyring.clock.now())
        algorithm = view.key.algorithm
        data = compact({"alg": algorithm.value, "typ": TYPE, "kid": version.record.kid}, payload)
        signature = await self._keyring.runner(view.key).sign(version, algorithm, data)
        return f"{data.decode()}.{b64url(signature)}"

    async def _view(self) -> KeyView:
        self.check()  # a key of this name may have been made since the start
        view = self._keyring.snapshot.keys.get(self.name)
        if view is not None:
            return view
        capabilities = self._keyring.backend(self._backend).backend.capabilities
        key = Key(
            name=self.name,
            algorithm=next(algorithm for algorithm in _ALGORITHMS if algorithm in capabilities.algorithms),
            backend=self._backend,
            purposes=frozenset({Purpose.AUDIT}),
            profile=self._profile,
            kid_format=KidFormat.THUMBPRINT,
            keyid_aliases=(),
            publish=False,
            lifecycle=self._lifecycle,
            created_at=self._keyring.clock.now(),
        )
        try:
            return (await self._keyring.create(key)).key
        except (AlreadyExistsError, ConflictError) as exc:
            return await self._made_by_another(exc)

    async def _made_by_another(self, failure: KeydError) -> KeyView:
        """Return the key that another worker or replica makes at the same time. Raises AlreadyExistsError: nobody does."""
        for _ in range(_LOOKS):
            self.check()
            view = self._keyring.snapshot.keys.get(self.name)
            if view is not None:
                return view
            await self._keyring.changed(_BETWEEN)
        raise AlreadyExistsError(f"the audit key cannot be made; set audit.key to another name. {failure}") from failure

    def public_jwks(self) -> str:
        """Return the JWK Set of every version that there ever was, which is what verifies checkpoints.

        Of every audit key: another may have been configured before.
        """
        views = [view for view in self._keyring.snapshot.keys.values() if view.key.purposes == {Purpose.AUDIT}]
        keys = [(public_jwk(view.key, version), version.record) for view in views for version in view.versions]
        marked = [{**jwk, "compromised": True} if isfinite(record.timeline.compromised_at) else jwk for jwk, record in keys]
        return json.dumps({"keys": marked}, separators=(",", ":"))
