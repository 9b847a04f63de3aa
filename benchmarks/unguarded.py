"""keyd without a guard: the same server, event loop, keyring and backend, and nothing that asks who calls, what is signed, or writes it down.

What benchmarks/cost.py compares the daemon with. Not a way to run keyd: it signs anything for anybody who reaches the socket.

    python benchmarks unguarded SOCKET [--transport http2]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor
from support import keyring, new_key

from backends.api import BackendContext
from keyd import log, plugins, process
from keyd.core.clock import SystemClock
from keyd.core.keyring import Keyring
from keyd.core.principal import Principal
from keyd.core.runner import BackendRunner, Limits
from keyd.core.store import SqlStore
from keyd.service import convert
from keyd.service.bounds import Bounds
from keyd.service.call import Call, Caller
from keyd.service.gate.limits import Quota
from keyd.service.transport import Transport
from keyd.v1 import signing_service_pb2 as pb


class Unguarded:
    """The signing service, cut down to the signature."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def sign(self, request: pb.SignRequest, call: Call) -> pb.SignResponse:
        view = self._keyring.snapshot.get(request.key)
        version = view.signer(request.kid or None, self._keyring.clock.now())
        signature = await self._keyring.runner(view.key).sign(version, view.key.algorithm, request.signature_base)
        return pb.SignResponse(
            signature=signature,
            kid=version.record.kid,
            version=version.record.version,
            algorithm=convert.ALGORITHMS[view.key.algorithm],
            http_algorithm=view.key.algorithm.http_name,
            jose_algorithm=view.key.algorithm.value,
        )

    def __getattr__(self, name: str) -> object:
        return None  # the other methods: a call of one ends in an error, and the benchmark makes none


def server(transport: str, service: Unguarded) -> Transport:
    """Return the server of that transport with nothing in front of it."""
    anybody = Caller(Principal())
    services: dict[ServiceDescriptor, object] = {pb.DESCRIPTOR.services_by_name["SigningService"]: service}
    bounds, calls = Bounds(), Quota(1000, 1000)
    # One of them alone is imported, as in the daemon.
    if transport == "http2":
        from keyd.service.http2.server import Http2Server

        return Http2Server(services, lambda _: anybody, bounds, calls)
    process.prepare_grpc()
    from keyd.service.grpcio import GrpcServer

    return GrpcServer(services, lambda _: anybody, bounds, calls)


async def serve(socket: str, transport: str) -> None:
    """Sign until the process is killed; the public key is printed when it listens."""
    log.configure("error", "console")
    backend_type = plugins.load("memory")
    backend = backend_type.open(backend_type.Config(), BackendContext("memory", Path("/nonexistent")))
    with tempfile.TemporaryDirectory() as directory:
        runners = {"memory": BackendRunner("memory", backend, Limits())}
        ring = keyring(SqlStore(Path(directory) / "keyd.db"), runners, SystemClock())
        await ring.start()
        change = await ring.create(new_key("bench", backend="memory", created_at=SystemClock().now()))
        bare = server(transport, Unguarded(ring))
        bare.listen(f"unix:{socket}")
        await bare.start()
        print(change.key.versions[0].record.public_jwk, flush=True)
        await asyncio.Event().wait()


def main() -> int:
    """Serve on the socket that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("socket")
    parser.add_argument("--transport", choices=("grpcio", "http2"), default="grpcio")
    options = parser.parse_args()
    asyncio.run(serve(options.socket, options.transport))
    return 0
