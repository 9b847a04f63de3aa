from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from components.openbao import shared

from backends.api import Algorithm, BackendContext
from backends.testing import BackendContract, Fault
from backends.vault_transit import VaultTransitBackend

TYPES = {
    Algorithm.ED25519: "ed25519",
    Algorithm.ES256: "ecdsa-p256",
    Algorithm.ES384: "ecdsa-p384",
    Algorithm.PS512: "rsa-3072",
    Algorithm.RS256: "rsa-2048",
}


class TestVaultTransitOnOpenBao(BackendContract):
    """All of it with a token that has the policy which keyd prints, and nothing else."""

    backend_class = VaultTransitBackend
    component = "OpenBao 2.7"
    faults = frozenset(Fault)

    def make_backend(self, tmp_path: Path) -> VaultTransitBackend:
        self.tenant = shared().tenant(tmp_path)
        self.context = BackendContext("vault", tmp_path / "state")
        return VaultTransitBackend.open(self.tenant.config(), self.context)

    def reopen(self, backend: VaultTransitBackend) -> VaultTransitBackend:
        backend.close()
        return VaultTransitBackend.open(self.tenant.config(), self.context)

    def make_foreign_key(self, backend: VaultTransitBackend, algorithm: Algorithm) -> str:
        mount, name = self.tenant.mount, f"theirs-{algorithm.value}"
        self.tenant.allow(
            f'path "{mount}/keys/{name}" {{ capabilities = ["read"] }}\n'
            f'path "{mount}/sign/{name}" {{ capabilities = ["update"] }}\n'
        )
        shared().call("POST", f"{mount}/keys/{name}", {"type": TYPES[algorithm]})
        return f"{name}:1"

    def inject(self, backend: VaultTransitBackend, fault: Fault) -> AbstractContextManager[None]:
        if fault is Fault.EXPIRED:
            self.tenant.revoke_tokens()
            return nullcontext()
        return {
            Fault.GONE: shared().sealed,
            Fault.HUNG: shared().hung,
            Fault.THROTTLING: self.tenant.throttled,
            Fault.REFUSING: self.tenant.refusing,
        }[fault]()
