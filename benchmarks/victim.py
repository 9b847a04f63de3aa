"""An agent that signs at a calm pace over one connection, and what it notices of what others do meanwhile.

As a program of its own, ``python benchmarks/victim.py ADDRESS KEY SECONDS PACE``, it says when it is ready and begins when it reads a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

PACE = 200  # signatures a second


def victim(
    address: str, seconds: float, flood: AbstractContextManager[object], *, key: str = "victim"
) -> tuple[float, float, int]:
    """Return the victim's p50 and p99 in milliseconds, and how many of its signatures failed. It is connected before the flood begins."""
    command = [sys.executable, __file__, address, key, str(seconds), str(PACE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with flood:
            time.sleep(0.3)  # for the flood to get going: its first burst is over by then, and measured is what goes on
            process.stdin.write("go\n")
            process.stdin.flush()
            p50, p99, failed = json.loads(process.stdout.readline())
    return p50, p99, failed


def _work(address: str, key: str, seconds: float, pace: float) -> None:
    import grpc

    from benchmarks.payload import sign_request
    from keyd.v1 import signing_service_pb2_grpc

    stub = signing_service_pb2_grpc.SigningServiceStub(grpc.insecure_channel(address))
    stub.Sign(sign_request(key), wait_for_ready=True, timeout=5)
    print("ready", flush=True)
    sys.stdin.readline()
    took, failed, end, due = [], 0, time.monotonic() + seconds, time.monotonic()
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / pace
        began = time.perf_counter()
        try:
            stub.Sign(sign_request(key), timeout=5)
        except grpc.RpcError:
            failed += 1
        took.append(time.perf_counter() - began)
    took.sort()
    print(json.dumps([took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, failed]))


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    _work(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
