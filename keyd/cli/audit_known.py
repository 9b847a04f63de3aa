"""What others than its files say of an audit trail: the key that was given, the database, the running daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli.errors import printable
from keyd.cli.options import Connection

if TYPE_CHECKING:
    from keyd.core.audit.verify import Expected, Keys
    from keyd.core.store.offline import AuditFacts
    from keyd.v1.audit_service_pb2 import GetHeadResponse

_WORKER = re.compile(r"worker-([0-9]{1,3})", re.ASCII)


class Known:
    """What others say of a trail."""

    def __init__(self, document: Any) -> None:
        """``document`` is the key that the caller gave, which none from elsewhere takes the place of."""
        self.keys: Keys | None = None if document is None else _keys(document)
        self.compromised: frozenset[str] = frozenset()
        self.expected: list[Expected] = []
        self.notes: list[str] = []

    def take_head(self, head: GetHeadResponse, public_jwks: str) -> None:
        """Take what the running daemon says of the trail; ``public_jwks`` are its audit keys."""
        from keyd.core.audit.verify import Expected

        if head.failure:
            self.notes.append(f"the daemon cannot record at present: {head.failure}")
        self._take(json.loads(public_jwks))
        self.expected += [Expected(row.seq, row.digest, "the database") for row in head.checkpoints]
        self.expected.append(Expected(head.seq, head.digest, "the running daemon"))

    def read(self, facts_of: Callable[[], AuditFacts], *, needed: bool) -> None:
        """Ask a database. ``needed``: nothing else can check signatures, or the caller named it; nothing would be proved."""
        from keyd.core.audit.verify import Expected
        from keyd.core.errors import StoreUnavailableError

        try:
            facts = facts_of()
        except StoreUnavailableError as exc:
            if needed:
                raise click.ClickException(printable(f"{exc}; --key FILE checks the trail without it")) from None
            self.notes.append(f"{exc}; a cut tail is found with its help only")
            return
        self._take(facts.public_jwks)
        self.expected += [Expected(seq, digest, "the database") for seq, digest in facts.checkpoints]

    def _take(self, jwks: dict[str, Any]) -> None:
        from keyd.core.audit.checkpoints import compromised_of

        self.compromised |= compromised_of(jwks)
        if self.keys is None:
            self.keys = _keys(jwks) if jwks["keys"] else {}  # with no key at all, no checkpoint is good


def ask(connection: Connection) -> tuple[dict[int, GetHeadResponse], str]:
    """Return what the running daemon says of the trail of each worker, by its number, and its audit keys."""
    with connection.admin() as admin:
        head = admin.audit_head()
    if not head.enabled:
        raise click.ClickException("the daemon keeps no audit trail (audit.enabled = false)")
    return {number_of(Path(each.directory)): each for each in (head, *head.others)}, head.public_jwks


def number_of(path: Path) -> int:
    """Return which worker's trail is at a path, by its name: the first one's, if that does not say."""
    match = _WORKER.fullmatch(path.name)
    return int(match[1]) if match else 1


def read_json(path: Path) -> Any:
    """Return what a file has, which must be JSON."""
    try:
        return json.loads(path.read_bytes()[: 1 << 20]) or {}
    except (OSError, ValueError, RecursionError):
        raise click.ClickException(f"{printable(str(path))} is not JSON") from None


def _keys(document: Any) -> Keys:
    from keyd.core.audit.checkpoints import keys_of

    try:
        return keys_of(document)
    except ValueError as exc:
        raise click.ClickException(f"the audit key cannot be read: {exc}") from None
