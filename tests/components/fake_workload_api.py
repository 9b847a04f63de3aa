"""A fake of the SPIFFE Workload API: the real protocol over a real socket, with certificates that the test hands it.

It does what an agent does for one workload: streams the X509-SVID and the bundles, and sends them again whenever they change; refuses
calls without the security header; can have no identity for the workload (PERMISSION_DENIED), as SPIRE has until there is an entry, and
can end its streams. Not: attestation, JWT-SVIDs, several SVIDs.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pki import Authority, Issued
from spiffe._proto import workload_pb2, workload_pb2_grpc


class FakeWorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """A context manager that serves on ``directory``/agent.sock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent.sock"
        self.streams: list[queue.Queue[workload_pb2.X509SVIDResponse | None]] = []
        self.current: workload_pb2.X509SVIDResponse | None = None
        self.refused = 0

    @property
    def endpoint(self) -> str:
        return f"unix:{self.path}"

    def set(self, svid: Issued, bundle: Authority, federated: Mapping[str, Authority] | None = None) -> None:
        """Issue this SVID, to those who are connected as well."""
        der = Encoding.DER
        self.current = workload_pb2.X509SVIDResponse(
            svids=[
                workload_pb2.X509SVID(
                    x509_svid=b"".join(each.public_bytes(der) for each in (svid.certificate, *svid.between)),
                    x509_svid_key=svid.key.private_bytes(der, PrivateFormat.PKCS8, NoEncryption()),
                    bundle=bundle.certificate.public_bytes(der),
                )
            ],
            federated_bundles={
                f"spiffe://{name}": each.certificate.public_bytes(der) for name, each in (federated or {}).items()
            },
        )
        for stream in self.streams:
            stream.put(self.current)

    def hang_up(self) -> None:
        """End every stream."""
        for stream in self.streams:
            stream.put(None)

    def FetchX509SVID(
        self, request: workload_pb2.X509SVIDRequest, context: grpc.ServicerContext
    ) -> Iterator[workload_pb2.X509SVIDResponse]:
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        if self.current is None:
            self.refused += 1
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        updates: queue.Queue[workload_pb2.X509SVIDResponse | None] = queue.Queue()
        context.add_callback(lambda: updates.put(None))
        self.streams.append(updates)
        item = self.current
        while item is not None:
            yield item
            item = updates.get()
        self.streams.remove(updates)

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        self.server = grpc.server(ThreadPoolExecutor(8))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self.server)
        self.server.add_insecure_port(self.endpoint)
        self.server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop(0).wait()
