"""Web Bot Auth for the adapters of HTTP libraries: ``KeydAuth(client, "bot", **web_bot_auth.options("https://agent.example"))``.

draft-meunier-webbotauth-httpsig-protocol-02, and what Cloudflare verifies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from keyd.client.http import SignatureOptions

TAG = "web-bot-auth"
_COMPONENTS = ("@method", "@authority", "@path")
_NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_ORIGIN = re.compile(rf"https://(?:\[[0-9a-f:.]+\]|{_NAME})(?::(?P<port>[1-9][0-9]{{0,4}}))?")
_LABEL = re.compile(r"[a-z*][a-z0-9_.*-]*")


def options(
    agent: str,
    *,
    form: Literal["string", "dictionary"] = "string",
    components: Sequence[str] = _COMPONENTS,
    expires_in: int = 60,
    label: str = "sig1",
) -> SignatureOptions:
    """Return how requests of a bot are signed, with the field Signature-Agent set and covered.

    Args:
        agent: the origin of its key directory, such as ``https://agent.example``.
        form: of Signature-Agent. ``string`` is what Cloudflare takes, ``"https://agent.example"``; ``dictionary`` is that of the
            draft, ``sig1="https://agent.example"``, of which the member is covered.
        components: what is covered beside it: ``@authority`` or ``@target-uri`` at least. A body adds ``content-digest``.
        expires_in: seconds from ``created`` to ``expires``; whoever sees a request can send it again for so long.
        label: of the signature, and of the member.

    Raises:
        ValueError: ``agent`` is no https origin, or ``label`` none that a dictionary can have.
    """
    if not _LABEL.fullmatch(label):
        raise ValueError(f"label {label!r} is not one of lower case letters, digits, and _ - . *, beginning with a letter or *")
    origin = _origin(agent)
    member, covered = f'"{origin}"', "signature-agent"
    if form == "dictionary":
        member, covered = f'{label}="{origin}"', f'"signature-agent";key="{label}"'
    return SignatureOptions(
        components=(*components, covered),
        label=label,
        expires_in=expires_in,
        tag=TAG,
        include_alg=True,  # RFC 9421 does not need it, and some verifiers do (wbactl 0.1)
        thumbprint=True,
        fields={"Signature-Agent": member},
    )


def _origin(agent: str) -> str:
    scheme, host = urlsplit(agent).scheme.lower(), agent.partition("://")[2]
    if scheme != "https":
        raise ValueError(f"agent {agent!r} is not an https origin; verifiers fetch key directories over https alone")
    origin = f"https://{host.lower()}"
    match = _ORIGIN.fullmatch(origin)
    if match is None or int(match["port"] or 443) > 65535:
        raise ValueError(
            f"agent {agent!r} is not an origin such as https://agent.example: no path, no user, and a host in its A-labels, without a dot at the end; "
            "verifiers add the well-known path themselves"
        )
    return origin
