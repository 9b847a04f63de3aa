"""The section of the configuration for a backend of type ``vault``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from backends.secrets import SecretRef

_STRICT = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_Mount = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}(/{_SEGMENT})*$", max_length=255)]
_Namespace = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}(/{_SEGMENT})*/?$", max_length=255)]
#: What transit lets a key name begin with.
_Prefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=63)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
_Seconds = Annotated[float, Field(gt=0, le=300)]

DEFAULT_JWT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class AppRoleConfig(BaseModel):
    """Log in with a role and its secret."""

    model_config = _STRICT

    role_id: _Name
    secret_id: SecretRef
    mount: _Mount = "approle"
    #: The secret is a response-wrapping token, good for one use, that holds the secret_id.
    wrapped: bool = False


class KubernetesConfig(BaseModel):
    """Log in with the token of the pod's service account."""

    model_config = _STRICT

    role: _Name
    jwt_file: Path = DEFAULT_JWT
    mount: _Mount = "kubernetes"


class CertConfig(BaseModel):
    """Log in with ``client_certificate``."""

    model_config = _STRICT

    #: The certificate role; the server tries all of them without it.
    name: _Name | None = None
    mount: _Mount = "cert"


class AuthConfig(BaseModel):
    """How keyd gets its token: exactly one way."""

    model_config = _STRICT

    #: A file that something else keeps up to date, as Vault Agent does.
    token_file: Path | None = None
    token: SecretRef | None = None
    approle: AppRoleConfig | None = None
    kubernetes: KubernetesConfig | None = None
    cert: CertConfig | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(way is not None for way in (self.token_file, self.token, self.approle, self.kubernetes, self.cert)) != 1:
            raise ValueError("give exactly one of token_file, token, approle, kubernetes and cert")
        return self


class VaultConfig(BaseModel):
    """Section of the configuration for a backend of type ``vault``."""

    model_config = _STRICT

    #: ``https://host:port``, ``http://127.0.0.1:port`` or ``unix:/path/of.sock``.
    address: str
    auth: AuthConfig
    #: Where the transit engine is mounted.
    mount: _Mount = "transit"
    #: What the names of keyd's own keys in the mount begin with.
    prefix: _Prefix = "keyd-"
    namespace: _Namespace | None = None
    #: Certificates that the server's is checked against; the system's by default.
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    #: Allow ``http://`` to addresses other than this machine's own. The token and the messages then pass in the clear.
    allow_plaintext: bool = False
    connect_timeout: _Seconds = 3.0
    read_timeout: _Seconds = 10.0
    #: Modulus of new RSA keys.
    rsa_bits: Literal[2048, 3072, 4096] = 3072

    @field_validator("address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme == "unix":
            if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
                raise ValueError("write the absolute path of the socket: unix:/run/bao.sock")
            return address
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("give https://HOST:PORT, http://127.0.0.1:PORT or unix:/PATH")
        if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("give nothing but scheme, host and port; the rest has fields of its own")
        _ = parts.port  # a ValueError of its own when it is no port
        return address

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        parts = urlsplit(self.address)
        if parts.scheme == "http" and not self.allow_plaintext and not _is_loopback(parts):
            raise ValueError("address is http:// to another machine, which anybody on the way can read; use https://")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key go together; give both")
        if self.auth.cert is not None and self.client_certificate is None:
            raise ValueError("auth.cert needs client_certificate and client_key")
        if parts.scheme != "https" and (self.ca_file is not None or self.client_certificate is not None):
            raise ValueError("ca_file, client_certificate and client_key need an address with https://")
        return self


def _is_loopback(parts: SplitResult) -> bool:
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
