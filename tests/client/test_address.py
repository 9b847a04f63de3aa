import grpc
import pytest

from keyd.client import Client
from keyd.client.address import default_address, grpc_target


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"KEYD_ADDRESS": "host:1", "XDG_RUNTIME_DIR": "/run/user/7"}, 7, "host:1"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "unix:/run/user/7/keyd/keyd.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "unix:/run/keyd/keyd.sock"),
        ({}, 7, "unix:/run/keyd/keyd.sock"),
        ({"KEYD_ADDRESS": "", "XDG_RUNTIME_DIR": ""}, 7, "unix:/run/keyd/keyd.sock"),
    ],
)
def test_default_address(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_address(environ, uid) == expected


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:/run/k.sock", "unix:/run/k.sock"),
        ("unix:///run/k.sock", "unix:/run/k.sock"),
        ("/run/k.sock", "unix:/run/k.sock"),
        ("unix:@keyd", "unix-abstract:keyd"),
        ("localhost:50", "dns:///localhost:50"),
        ("127.0.0.1:50", "dns:///127.0.0.1:50"),
        ("[::1]:50", "dns:///[::1]:50"),
    ],
)
def test_plain_addresses(address: str, target: str) -> None:
    assert grpc_target(address, secure=False) == target


@pytest.mark.parametrize("address", ["10.0.0.1:50", "keyd.example:50", "[2001:db8::1]:50", "localhost.example:50", "0.0.0.0:50"])
def test_plain_tcp_to_elsewhere_needs_tls(address: str) -> None:
    with pytest.raises(ValueError, match="needs TLS"):
        grpc_target(address, secure=False)
    assert grpc_target(address, secure=True) == f"dns:///{address}"


@pytest.mark.parametrize(
    "address", ["", "unix:", "unix:relative", "keyd.example", "host:0", "host:65536", "http://h:1", "h:1\n", "xds:h:1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        grpc_target(address, secure=False)


def test_a_unix_socket_takes_no_credentials() -> None:
    with pytest.raises(ValueError, match="takes no credentials"):
        grpc_target("/run/k.sock", secure=True)


def test_the_client_refuses_before_it_connects() -> None:
    with pytest.raises(ValueError, match="needs TLS"):
        Client("keyd.example:50")
    Client("keyd.example:50", credentials=grpc.ssl_channel_credentials()).close()
