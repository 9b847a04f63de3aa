"""The least that keyd must be allowed to do, in the policy language of Vault and OpenBao."""

from __future__ import annotations

_POLICY = """\
# keyd's transit keys: mount {mount}, names that begin with {prefix}{where}

path "{mount}/sign/{prefix}*" {{
  capabilities = ["update"]
}}

# One rule for the keys and what lies below them (rotate, config, trim), because a glob can only end a path, and
# a rule for keys/+/config would lose against it. What keyd never sends is denied: exportable and
# allow_plaintext_backup, which would let private keys out, and import.
path "{mount}/keys/{prefix}*" {{
  capabilities = ["create", "read", "update", "delete"]
  allowed_parameters = {{
    "type" = []
    "min_decryption_version" = []
    "min_encryption_version" = []
    "min_available_version" = []
    "deletion_allowed" = []
  }}
}}

# Names of all keys in the mount; nothing else of those without the prefix.
path "{mount}/keys" {{
  capabilities = ["list"]
}}

path "auth/token/lookup-self" {{
  capabilities = ["read"]
}}

path "auth/token/renew-self" {{
  capabilities = ["update"]
}}

# A key that something else made, NAME, can be adopted once these are allowed as well:
#
# path "{mount}/sign/NAME" {{ capabilities = ["update"] }}
# path "{mount}/keys/NAME" {{ capabilities = ["read"] }}
"""


def policy_text(mount: str, prefix: str, namespace: str | None) -> str:
    """Return the policy for one mount and prefix."""
    where = f"\n# install it in the namespace {namespace}" if namespace is not None else ""
    return _POLICY.format(mount=mount, prefix=prefix, where=where)
