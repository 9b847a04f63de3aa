import socket
import subprocess
import sys
from pathlib import Path

import ports
import pytest


def test_no_connection_gets_one_and_nobody_gets_one_twice():
    given = ports.free_ports(50)
    assert len(set(given)) == 50
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert max(given) < client.getsockname()[1]


@pytest.mark.parametrize("taken", [True, False])
def test_one_that_somebody_has_is_not_given(monkeypatch, taken):
    first, second = ports.free_ports(2)
    drawn = iter([first, second, second + 1])
    monkeypatch.setattr(ports, "_reserved", lambda port: True)
    monkeypatch.setattr(ports.random, "randrange", lambda *_: next(drawn))
    with socket.socket() as server:
        if taken:
            server.bind(("127.0.0.1", first))
            server.listen()
        assert ports.free_ports(1) == [second if taken else first]


@pytest.mark.parametrize("reserved", [True, False])
def test_another_process_is_given_others(reserved):
    port = ports.free_ports(1)[0] if reserved else next(port for port in range(20_000, 30_000) if not_reserved(port))
    code = f"import ports; print(ports._reserved({port}))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(Path(ports.__file__).parent)}, capture_output=True, text=True
    )
    assert ran.stdout.strip() == str(not reserved), ran.stderr


def not_reserved(port: int) -> bool:
    with socket.socket(socket.AF_UNIX) as name:
        try:
            name.bind(f"\0test-port-{port}")
        except OSError:
            return False
        return True
