"""AWS KMS for the demo: moto's server, which imitates AWS."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from keyd.demo.stores import DemoStore, StoreMissingError

# It says where it listens, and ends with the process that started it: then there is an end to its standard input.
_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_SECTION = """\
type = "aws"
region = "us-east-1"
endpoint_url = "http://127.0.0.1:{port}"
algorithms = ["ES256", "ES384", "RS256"]
# moto hashes a digest once more, AWS does not: keyd sends messages whole, or no signature would verify
message_type = "raw"
"""


@contextmanager
def start(directory: Path) -> Iterator[DemoStore]:
    """Run moto's server while the context lasts.

    Raises:
        StoreMissingError: moto, its server or the AWS SDK is not installed, or the server does not start.
    """
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "boto3")):
        raise StoreMissingError("the demo imitates AWS with moto's server; run: pip install 'moto[server]' boto3")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = directory / "moto.log"
    with log.open("wb") as errors:
        command = [sys.executable, "-c", _SERVE]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)  # noqa: S603 - our own
    try:
        assert server.stdin is not None and server.stdout is not None
        port = server.stdout.readline().decode().strip()
        if not port:
            raise StoreMissingError(f"moto's server does not start; see {log}")
        # moto takes any credentials; without some the SDK would look for them all over the network.
        environment = {
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        yield DemoStore(f"AWS KMS, imitated by moto {version('moto')}", _SECTION.format(port=port), "ES256", environment)
    finally:
        server.kill()
        server.communicate()
