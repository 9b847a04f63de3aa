"""Programs that sign, each under an executable of its own, so that the policy tells them apart."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Self

#: Reads a key a line, signs some bytes with it, and prints the kid, or the reason of the refusal. ``*`` before it: over a connection of its own.
_CODE = """
import sys
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from keyd.v1 import signing_service_pb2 as pb, signing_service_pb2_grpc
address = sys.argv[1]
def connected():
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
kept = []
channel = connected()
for line in sys.stdin:
    key = line.strip()
    if key.startswith("*"):
        key, channel = key[1:], connected()
        kept.append(channel)
    try:
        answer = signing_service_pb2_grpc.SigningServiceStub(channel).Sign(pb.SignRequest(key=key, message=b"x"), timeout=10)
        print("kid", answer.kid, flush=True)
    except grpc.RpcError as error:
        status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
        if status is not None and status.details:
            status.details[0].Unpack(info)
        print("no", info.reason or error.code().name, flush=True)
"""


class Agent:
    """A program that signs what it is told to."""

    def __init__(self, executable: Path, address: str) -> None:
        paths = [str(Path(__file__).parents[1]), sysconfig.get_path("purelib")]
        self.process = subprocess.Popen(
            [str(executable), "-c", _CODE, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHOME": sys.base_prefix, "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
        )

    def sign(self, key: str, *, anew: bool = False) -> str:
        """Return ``kid`` and the kid that signed, or ``no`` and why not; ``anew``: over a new connection."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{'*' if anew else ''}{key}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
