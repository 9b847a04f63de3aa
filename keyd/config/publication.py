"""From a configuration to how JWK Sets are published."""

from __future__ import annotations

from types import MappingProxyType

from keyd.config.model import Config
from keyd.core.publication import Rules


def publication(config: Config) -> Rules:
    """Return how the JWK Sets of all keys, and of each issuer, are published."""
    alg, max_age = config.jwks.alg, config.jwks.max_age
    issuers = {name: section.to_issuer(name, alg, max_age) for name, section in config.issuers.items()}
    return Rules(max_age, alg, MappingProxyType(issuers), config.jwks.max_keys)
