import subprocess
import sys

HEAVY = "sqlalchemy pydantic starlette boto3 httpx httpx2 requests aiohttp http_message_signatures joserfc structlog keyd.core keyd.service backends"


def _loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*(name for name in {HEAVY.split()!r} if name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split())


def test_the_client_is_light() -> None:
    assert _loaded_by("import keyd.client") == set()


def test_an_adapter_is_not_which_shows_that_the_test_above_can_fail() -> None:
    assert _loaded_by("import keyd.client.httpx_auth") >= {"httpx", "http_message_signatures"}


def test_the_adapters_for_httpx_and_httpx2_do_not_load_each_other() -> None:
    assert "httpx2" not in _loaded_by("import keyd.client.httpx_auth")
    assert _loaded_by("import keyd.client.httpx2_auth") & {"httpx", "httpx2"} == {"httpx2"}
