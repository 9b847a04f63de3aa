"""The configuration of the AWS KMS backend."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from backends.api import Algorithm

_OWN_TAGS = 2  # of the 50 that a key can have

# One step only: the aliases of a prefix below another could be taken for aliases of the other one.
_Prefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
_Path = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=128)]
_TagKey = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_TagValue = Annotated[str, StringConstraints(max_length=256)]
_Seconds = Annotated[float, Field(gt=0, le=60)]


class AwsKmsConfig(BaseModel):
    """Section of the configuration for a backend of type ``aws``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: The region of the keys; from the environment or the profile by default.
    region: str | None = Field(default=None, min_length=1)
    #: Another endpoint of KMS: a VPC endpoint, an emulator.
    endpoint_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+/?$")] | None = None
    #: Allow ``http://`` to addresses other than this machine's own. Whoever is on the way can then answer in KMS's place.
    allow_plaintext: bool = False
    use_fips: bool = False
    #: A profile of the shared AWS configuration.
    profile: str | None = Field(default=None, min_length=1)
    #: A role to assume with the credentials that the SDK finds.
    role_arn: Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/\S+$")] | None = None
    role_session_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@-]{2,64}$")] = "keyd"
    external_id: str | None = Field(default=None, min_length=2, max_length=1224)
    #: Aliases are ``alias/{prefix}/{name}/v{version}``.
    prefix: _Prefix = "keyd"
    #: Keys of others with an alias under this are listed, to be adopted; none are without it.
    adopt_prefix: _Path | None = "keyd-adopt"
    #: Put on every new key, besides keyd's own.
    tags: dict[_TagKey, _TagValue] = Field(default_factory=dict, max_length=50 - _OWN_TAGS)
    #: Whether new keys can be replicated to other regions.
    multi_region: bool = False
    #: How long KMS keeps a destroyed key before it is really gone.
    deletion_window_days: int = Field(default=30, ge=7, le=30)
    #: What the endpoint does; fewer for regions and emulators that lack some.
    algorithms: frozenset[Algorithm] = Field(default=frozenset(Algorithm), min_length=1)
    #: Modulus of new RSA keys.
    rsa_bits: Literal[2048, 3072, 4096] = 3072
    #: ``raw`` sends whole messages, of 4096 bytes at most. Ed25519 always does.
    message_type: Literal["digest", "raw"] = "digest"
    #: ``adaptive`` also slows this process down when KMS throttles it.
    retry_mode: Literal["standard", "adaptive"] = "standard"
    max_attempts: int = Field(default=3, ge=1, le=10)
    connect_timeout: _Seconds = 2.0
    read_timeout: _Seconds = 5.0

    @field_validator("prefix", "adopt_prefix")
    @classmethod
    def _not_reserved(cls, value: str | None) -> str | None:
        if value is not None and value.split("/")[0].lower() == "aws":
            raise ValueError("aliases that begin with aws belong to AWS")
        return value

    @field_validator("tags")
    @classmethod
    def _no_tags_of_others(cls, value: dict[str, str]) -> dict[str, str]:
        if any(key.lower().startswith(("aws:", "keyd:")) for key in value):
            raise ValueError("tags that begin with aws: or keyd: are set by AWS and keyd")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("external_id needs role_arn")
        if self.endpoint_url is not None and not self.allow_plaintext and not _is_private(self.endpoint_url):
            raise ValueError("endpoint_url is http:// to another machine, which anybody on the way can answer; use https://")
        if self.use_fips and self.endpoint_url is not None:
            raise ValueError("give endpoint_url or use_fips, not both")
        if self.adopt_prefix is not None and self.adopt_prefix.split("/")[0] == self.prefix:
            raise ValueError("adopt_prefix must not lie within prefix")
        return self


def _is_private(url: str) -> bool:
    """Say whether nobody is on the way: TLS, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
