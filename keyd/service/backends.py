"""BackendService: what operators ask of the stores."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from backends.api import Importer
from keyd.core import repair
from keyd.core.keyring import Keyring
from keyd.core.monitor import Monitor
from keyd.service import convert
from keyd.service.call import Call
from keyd.v1 import backend_service_pb2 as pb


class BackendService:
    """Looks into the configured backends."""

    def __init__(self, keyring: Keyring, monitor: Monitor, types: Mapping[str, str]) -> None:
        """Take the keyring, what watches its backends, and the type of each backend by its name."""
        self._keyring = keyring
        self._monitor = monitor
        self._types = types

    async def list_backends(self, request: pb.ListBackendsRequest, call: Call) -> pb.ListBackendsResponse:
        """List the configured backends, and say which of them do not answer."""
        counts: dict[str, int] = {}
        for view in self._keyring.snapshot.keys.values():
            counts[view.key.backend] = counts.get(view.key.backend, 0) + 1
        found = []
        for name, runner in sorted(self._keyring.backends.items()):
            capabilities = runner.backend.capabilities
            found.append(
                pb.Backend(
                    name=name,
                    type=self._types[name],
                    algorithms=sorted(convert.ALGORITHMS[algorithm] for algorithm in capabilities.algorithms),
                    imports=isinstance(runner.backend, Importer),
                    key_count=counts.get(name, 0),
                    failure=self._monitor.failure(name) or "",
                )
            )
        return pb.ListBackendsResponse(backends=found)

    async def list_stored_keys(self, request: pb.ListStoredKeysRequest, call: Call) -> pb.ListStoredKeysResponse:
        """List what one backend holds, whether or not it is on record, in the order of the handles."""
        runner = self._keyring.backend(request.backend)
        kids = {
            version.record.handle: version.record.kid
            for view in self._keyring.snapshot.keys.values()
            if view.key.backend == request.backend
            for version in view.versions
        }
        return pb.ListStoredKeysResponse(
            keys=[
                pb.StoredKey(handle=key.handle, key=key.name or "", version=key.version or 0, kid=kids.get(key.handle, ""))
                for key in sorted(await repair.stored_keys(runner), key=attrgetter("handle"))
            ]
        )
