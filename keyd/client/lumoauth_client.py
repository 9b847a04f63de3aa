"""The AAuth client of the LumoAuth SDK without a private key: ``KeydAAuthClient(client.private_key("agent"), "https://agent.example")``."""

from __future__ import annotations

import os

from lumoauth.aauth import AAuthClient

from keyd.client.keys import Ed25519Key, PrivateKey


class KeydAAuthClient(AAuthClient):  # type: ignore[misc]  # not installed where the types are checked
    """A LumoAuth ``AAuthClient`` that signs in keyd, pinned to one version, as the agent token that it shows is.

    Args:
        private: of :meth:`keyd.client.Client.private_key`, Ed25519, with the profile ``lumoauth``.
        agent_identifier: https URL of the agent.
        base_url: of LumoAuth; ``$LUMOAUTH_URL`` by default.
        org_id: the organization; ``$LUMOAUTH_ORG_ID`` by default.

    Raises:
        TypeError: the key is not Ed25519.
        KeydClientError: by each method that signs, when keyd does not.
    """

    def __init__(
        self, private: PrivateKey, agent_identifier: str, *, base_url: str | None = None, org_id: str | None = None
    ) -> None:
        # the SDK's own constructor wants the private key as PEM; these are all the attributes that it sets
        if not isinstance(private, Ed25519Key):
            raise TypeError(f"key {private.name!r} signs {private.jose_algorithm}; the LumoAuth SDK signs Ed25519 only")
        self.agent_identifier = agent_identifier
        self.kid = private.kid
        self.base_url = base_url or os.environ.get("LUMOAUTH_URL", "https://app.lumoauth.dev")
        self.org_id = org_id or os.environ.get("LUMOAUTH_ORG_ID", "")
        self._verify_tls = True
        self._private_key = private
