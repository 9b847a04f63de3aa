"""``keyd jwks --out``: which JWK Sets the daemon publishes, and where they belong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keyd.cli import errors

if TYPE_CHECKING:
    from keyd.client import AdminClient, Client, JwkSet
    from keyd.client.model import WellKnownDocument

_WELL_KNOWN = ".well-known/jwks.json"


@dataclass
class Fetched:
    """What the daemon publishes.

    Attributes:
        sets: by path below the directory.
        documents: what is served beside the sets of issuers, likewise.
        kept: beginnings of paths of which the daemon does not say what belongs there, so that what is there stays.
        gone: paths of sets in which no key is published any more. What is there may be of a compromised key, and stays in no case.
        failures: why, for people, with the exit code of each.
        seen: what is another whenever there is something to write or to say.
    """

    sets: dict[str, JwkSet] = field(default_factory=dict)
    documents: dict[str, WellKnownDocument] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    failures: list[tuple[str, int]] = field(default_factory=list)
    seen: object = None

    def add(self, path: str, what: str, get: Callable[[], JwkSet]) -> None:
        """Get one set. An empty one is not taken: verifiers would take it for the truth. Nor is it a reason to take away what is there,
        for the daemon that has no keys at all is hardly the one that published them.

        Raises:
            KeydClientError: the daemon does not answer, or not with a set.
        """
        from keyd.client import KeydClientError

        try:
            found = get()
        except KeydClientError as exc:
            if exc.reason == "KEY_STATE":
                self.gone.add(path)
                self.failures.append((f"{what} is taken away: {exc}", errors.KEY_STATE))
                return
            if exc.code.name not in ("PERMISSION_DENIED", "NOT_FOUND"):
                raise
            self.keep(path, what, str(exc), errors.EXIT_CODES[exc.code.name])
            return
        if found.keys:
            self.sets[path] = found
        else:
            self.keep(path, what, "no key is published", errors.KEY_STATE)

    def add_documents(self, found: JwkSet, prefix: Callable[[str], str]) -> None:
        """Take what is served beside the set of an issuer; ``prefix`` returns where, below the directory, for a host."""
        for each in found.documents:
            path = f"{prefix(each.host)}.well-known/{each.name}"
            if each.failure:
                self.keep(path, path, each.failure, errors.KEY_STATE)
            else:
                self.documents[path] = each

    @property
    def files(self) -> dict[str, JwkSet | WellKnownDocument]:
        """Everything that becomes a file, by path."""
        return {**self.sets, **self.documents}

    def keep(self, path: str, what: str, why: str, code: int) -> None:
        """Leave what is there, and say why."""
        self.kept.add(path)
        self.failures.append((f"{what} stays as it was written last: {why}", code))

    def note(self) -> Fetched:
        """Note what has been seen so far, and return this."""
        self.seen = {path: found.etag for path, found in self.files.items()}, list(self.failures)
        return self


class Source(Protocol):
    """Where the sets come from. Both methods raise KeydClientError when the daemon does not answer."""

    def look(self) -> Fetched:
        """Return as much as shows whether anything has changed."""
        ...

    def fetch(self) -> Fetched:
        """Return all of it."""
        ...


class OneSet:
    """The set of all keys, of one, or of an issuer, at ``path``; ``beside``: with what is served beside it."""

    def __init__(self, client: Client, path: str, key: str | None, issuer: str | None, *, beside: bool = False) -> None:
        self._client, self._path, self._key, self._issuer, self._beside = client, path, key, issuer, beside
        self._what = f"the set of key {key!r}" if key else f"the set of issuer {issuer!r}" if issuer else "the set of all keys"

    def look(self) -> Fetched:
        """Return it."""
        return self.fetch()

    def fetch(self) -> Fetched:
        """Return it."""
        fetched = Fetched(kept={""})  # what else is there is not this set's affair
        fetched.add(self._path, self._what, lambda: self._client.jwk_set(self._key, issuer=self._issuer))
        for found in list(fetched.sets.values()) if self._beside else ():
            fetched.add_documents(found, lambda _: "")
        return fetched.note()


class Everything:
    """The tree that the endpoint serves: the set of all keys, that of each key, and below each host that of its issuer."""

    def __init__(self, client: Client, admin: AdminClient) -> None:
        self._client, self._admin = client, admin

    def look(self) -> Fetched:
        """Return the sets of all keys and of the issuers. That of one key does not change unless that of all keys does."""
        fetched = Fetched()
        fetched.add(_WELL_KNOWN, "the set of all keys", self._client.jwk_set)
        if _WELL_KNOWN not in fetched.sets:
            if not fetched.gone:
                fetched.kept.add("")  # nor is anything else to be had then
            return fetched.note()
        for name, hosts in fetched.sets[_WELL_KNOWN].issuers.items():
            one = Fetched()
            one.add("", f"the set of issuer {name!r}", lambda name=name: self._client.jwk_set(issuer=name))  # type: ignore[misc]
            paths = [f"{host}/{_WELL_KNOWN}" for host in hosts]
            fetched.sets.update((path, found) for path in paths for found in one.sets.values())
            fetched.kept.update(path for path in paths if one.kept)
            fetched.gone.update(path for path in paths if one.gone)
            if not one.sets:  # nor is what is beside it to be had then
                fetched.kept.update(f"{host}/.well-known/aauth-" for host in hosts)
            for found in one.sets.values():
                fetched.add_documents(found, lambda host: f"{host}/")
            fetched.failures += one.failures
        return fetched.note()

    def fetch(self) -> Fetched:
        """Return all of it. The files of keys that the caller may not list, or not use, stay as they are."""
        fetched = self.look()
        if _WELL_KNOWN in fetched.sets:
            self._add_keys(fetched)
        return fetched

    def _add_keys(self, fetched: Fetched) -> None:
        from keyd.client import PermissionDenied

        try:
            names = [key.name for key in self._admin.list_keys() if key.publish]
        except PermissionDenied as exc:
            fetched.keep("keys/", "what is below keys/", str(exc), errors.REFUSED)
            return
        for name in names:
            fetched.add(f"keys/{name}/jwks.json", f"the set of key {name!r}", lambda name=name: self._client.jwk_set(name))  # type: ignore[misc]
