from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from components.aws_environment import isolated
from components.fake_kms import ADMIN, DAEMON, EXTERNAL_ID, REGION, ROLE, FakeKms

from backends.api import Algorithm, Backend, BackendContext
from backends.aws_kms import AwsKmsBackend
from backends.testing import BackendContract, Fault

SPECS = {
    Algorithm.ED25519: "ECC_NIST_EDWARDS25519",
    Algorithm.ES256: "ECC_NIST_P256",
    Algorithm.ES384: "ECC_NIST_P384",
    Algorithm.PS512: "RSA_2048",
    Algorithm.RS256: "RSA_2048",
}


class TestAwsFakeKms(BackendContract):
    """Against the fake, as a role whose policy is the one that keyd prints."""

    backend_class = AwsKmsBackend
    component = "KMS fake"
    faults = frozenset(Fault)

    @pytest.fixture(autouse=True)
    def _kms(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.kms = FakeKms(external_id=EXTERNAL_ID)
        with self.kms.running():
            directory = tmp_path_factory.mktemp("aws")
            for name, value in isolated(directory, DAEMON, AWS_ENDPOINT_URL_STS=self.kms.url).items():
                monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
            yield

    def make_backend(self, tmp_path: Path) -> AwsKmsBackend:
        self.config = AwsKmsBackend.Config(
            region=REGION, endpoint_url=self.kms.url, role_arn=ROLE, external_id=EXTERNAL_ID, rsa_bits=2048
        )
        self.kms.policy = AwsKmsBackend.policy(self.config)
        self.context = BackendContext("aws", tmp_path)
        return AwsKmsBackend.open(self.config, self.context)

    def reopen(self, backend: Backend) -> AwsKmsBackend:
        backend.close()
        return AwsKmsBackend.open(self.config, self.context)

    def make_foreign_key(self, backend: Backend, algorithm: Algorithm) -> str:
        admin = self.admin()
        key_id = admin.create_key(KeySpec=SPECS[algorithm], KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        admin.create_alias(AliasName="alias/keyd-adopt/theirs", TargetKeyId=key_id)
        # Not for signing, nobody's to adopt, and under an alias of ours that says nothing: none of them may be listed.
        symmetric = admin.create_key()["KeyMetadata"]["KeyId"]
        admin.create_alias(AliasName="alias/keyd-adopt/symmetric", TargetKeyId=symmetric)
        other = admin.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        admin.create_alias(AliasName="alias/unrelated", TargetKeyId=other)
        admin.create_alias(AliasName="alias/keyd/k/latest", TargetKeyId=other)
        return str(key_id)

    def inject(self, backend: Backend, fault: Fault) -> AbstractContextManager[None]:
        return {
            Fault.GONE: self.kms.gone,
            Fault.HUNG: self.kms.hung,
            Fault.THROTTLING: lambda: self.kms.throttling(1.0),
            Fault.EXPIRED: self.expired,
            Fault.REFUSING: self.kms.refusals,
        }[fault]()

    @contextmanager
    def expired(self) -> Iterator[None]:
        self.kms.expire_credentials()
        yield

    def admin(self) -> Any:
        return boto3.client(
            "kms",
            region_name=REGION,
            endpoint_url=self.kms.url,
            aws_access_key_id=ADMIN[0],
            aws_secret_access_key=ADMIN[1],
        )
