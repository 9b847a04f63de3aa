"""BackendService: what operators ask of the stores."""

from __future__ import annotations

from collections.abc import Mapping

from backends.api import Importer
from keyd.core.errors import KeydError
from keyd.core.keyring import Keyring
from keyd.core.runner import BackendRunner
from keyd.service import convert
from keyd.service.call import Call
from keyd.v1 import backend_service_pb2 as pb


class BackendService:
    """Looks into the configured backends."""

    def __init__(self, keyring: Keyring, types: Mapping[str, str]) -> None:
        """Take the keyring and the type of each backend by its name."""
        self._keyring = keyring
        self._types = types

    async def list_backends(self, request: pb.ListBackendsRequest, call: Call) -> pb.ListBackendsResponse:
        """List the configured backends, and say which of them do not answer."""
        counts: dict[str, int] = {}
        for view in self._keyring.snapshot.keys.values():
            counts[view.key.backend] = counts.get(view.key.backend, 0) + 1
        found = []
        for name, runner in sorted(self._keyring.backends.items()):
            capabilities = runner.backend.capabilities
            message = pb.Backend(
                name=name,
                type=self._types[name],
                algorithms=sorted(convert.ALGORITHMS[algorithm] for algorithm in capabilities.algorithms),
                imports=isinstance(runner.backend, Importer),
                key_count=counts.get(name, 0),
            )
            try:
                await _stored(runner)
            except KeydError as exc:
                message.failure = str(exc)
            found.append(message)
        return pb.ListBackendsResponse(backends=found)

    async def list_stored_keys(self, request: pb.ListStoredKeysRequest, call: Call) -> pb.ListStoredKeysResponse:
        """List what one backend holds, whether or not it is on record."""
        runner = self._keyring.backend(request.backend)
        kids = {
            version.record.handle: version.record.kid
            for view in self._keyring.snapshot.keys.values()
            if view.key.backend == request.backend
            for version in view.versions
        }
        keys = await _stored(runner)
        for key in keys:
            key.kid = kids.get(key.handle, "")
        return pb.ListStoredKeysResponse(keys=keys)


async def _stored(runner: BackendRunner) -> list[pb.StoredKey]:
    stored = await runner.call(lambda: list(runner.backend.list()))
    return [pb.StoredKey(handle=key.handle, key=key.name or "", version=key.version or 0) for key in stored]
