import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from components.aws_environment import isolated

from backends.api import Algorithm, Backend, BackendContext
from backends.aws_kms import AwsKmsBackend
from backends.encoding import verify_raw
from backends.testing import BackendContract
from keyd.demo.stores import DemoStore, StoreMissingError, moto

SPECS = {Algorithm.ES256: "ECC_NIST_P256", Algorithm.ES384: "ECC_NIST_P384", Algorithm.RS256: "RSA_2048"}
SECRET = ("moto-takes-anything", "moto-takes-anything")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoStore]:
    with moto.start(tmp_path_factory.mktemp("moto")) as store:
        yield store


class TestAwsMoto(BackendContract):
    """Against moto's server, for what it does as AWS does: whole messages, and none with Ed25519 or PSS."""

    backend_class = AwsKmsBackend
    component = "moto 5"
    destroyed_keys_answer = True  # moto signs with keys that are about to be deleted

    @pytest.fixture(autouse=True)
    def _moto(self, store: DemoStore, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = tomllib.loads(store.section)["endpoint_url"]
        requests.post(f"{self.url}/moto-api/reset", timeout=10).raise_for_status()
        for name, value in isolated(tmp_path_factory.mktemp("aws"), SECRET).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    def make_backend(self, tmp_path: Path) -> AwsKmsBackend:
        self.config = AwsKmsBackend.Config(
            region="us-east-1",
            endpoint_url=self.url,
            algorithms=frozenset(SPECS),
            rsa_bits=2048,
            message_type="raw",  # moto hashes a digest again
        )
        self.context = BackendContext("aws", tmp_path)
        return AwsKmsBackend.open(self.config, self.context)

    def reopen(self, backend: Backend) -> AwsKmsBackend:
        backend.close()
        return AwsKmsBackend.open(self.config, self.context)

    def make_foreign_key(self, backend: Backend, algorithm: Algorithm) -> str:
        client: Any = boto3.client("kms", region_name="us-east-1", endpoint_url=self.url)
        key_id = client.create_key(KeySpec=SPECS[algorithm], KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        client.create_alias(AliasName="alias/keyd-adopt/theirs", TargetKeyId=key_id)
        return str(key_id)


def test_the_section_for_the_demo(store: DemoStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**isolated(tmp_path, None), **store.environment}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    fields = tomllib.loads(store.section)
    assert fields.pop("type") == "aws"
    config = AwsKmsBackend.Config.model_validate_json(json.dumps(fields), strict=True)
    backend = AwsKmsBackend.open(config, BackendContext("demo", tmp_path))
    algorithm = Algorithm(store.algorithm)
    handle = backend.create("demo", 1, algorithm)
    verify_raw(backend.public_key(handle), algorithm, backend.sign(handle, algorithm, b"demo"), b"demo")
    backend.close()


def test_the_demo_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto", None)
    with pytest.raises(StoreMissingError, match=r"pip install 'moto\[server\]' boto3"), moto.start(tmp_path):
        pass
