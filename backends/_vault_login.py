"""The ways to a token: one that something else keeps, AppRole, a Kubernetes service account, a TLS certificate."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from hvac.api.auth_methods import AppRole, Kubernetes, Token
from hvac.api.system_backend import Wrapping

from backends._files import UnsafeFileError, read_private
from backends._vault_config import AppRoleConfig, CertConfig, KubernetesConfig, VaultConfig
from backends._vault_http import Reply, Vault
from backends._vault_hvac import HvacAdapter, RefusedError
from backends.errors import BackendAccessError, BackendConfigError, BackendError, BackendUnavailableError
from backends.secrets import Secret

_MAX_TOKEN = 64 * 1024
_TOKEN = re.compile(rb"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, repr=False)
class Grant:
    """A token, and for how many seconds the server honours it; 0 means for ever."""

    token: str
    lease: float
    renewable: bool
    #: Of what it was got with, so that a change of that is noticed.
    fingerprint: bytes


class Login(Protocol):
    """One way to get a token."""

    def read(self) -> Secret:
        """Return the credential as it is now.

        Raises:
            BackendConfigError: there is none where the configuration says, or it is kept too openly.
            BackendUnavailableError: who should put it there has not yet.
        """
        ...

    def exchange(self, credential: Secret) -> Grant:
        """Get a token for the credential.

        Raises:
            BackendAccessError: the server does not take it.
            BackendUnavailableError: the server cannot tell.
        """
        ...


def login_for(config: VaultConfig, vault: Vault) -> Login:
    """Return the configured way."""
    auth = config.auth
    if auth.approle is not None:
        return _AppRoleLogin(vault, auth.approle)
    if auth.kubernetes is not None:
        return _KubernetesLogin(vault, auth.kubernetes)
    if auth.cert is not None and config.client_certificate is not None:
        return _CertLogin(vault, auth.cert, config.client_certificate)
    if auth.token is not None:
        return _TokenLogin(vault, f"the token in {auth.token}", auth.token.read_line)
    path = auth.token_file
    assert path is not None, "the configuration asks for exactly one way"
    return _TokenLogin(vault, f"the token in {path}", lambda: _from_agent(path))


def renewed(vault: Vault, grant: Grant) -> Grant | None:
    """Return the token with its new lease; None when the server does not renew it (any more).

    Raises:
        BackendUnavailableError: the server cannot tell.
    """
    try:
        answer = Token(_adapter(vault, grant.token)).renew_self()
    except RefusedError as error:
        if error.reply.status >= 500:
            raise BackendUnavailableError(f"vault at {vault.address} fails to renew the token: {error.reply.words}") from error
        return None
    return _grant(answer, grant.fingerprint, vault)


def is_honoured(vault: Vault, token: str) -> bool:
    """Say whether the server knows the token at all. Raises BackendUnavailableError."""
    return vault.send("GET", "auth/token/lookup-self", None, token, repeatable=True).status != 403


class _TokenLogin:
    def __init__(self, vault: Vault, what: str, read: Callable[[], Secret]) -> None:
        self._vault = vault
        self._what = what
        self.read = read

    def exchange(self, credential: Secret) -> Grant:
        token = _token(credential, self._what)
        try:
            facts = Token(_adapter(self._vault, token)).lookup_self()["data"]
            # In its last second a token has a ttl of 0, which elsewhere means that it never ends.
            lease = max(1.0, float(facts["ttl"])) if facts["expire_time"] is not None else 0.0
            return Grant(token, lease, bool(facts.get("renewable")), fingerprint(credential))
        except RefusedError as error:
            _refuse(self._vault, self._what, "put a token there that is neither expired nor revoked", error)
        except (KeyError, TypeError, ValueError) as error:
            raise _unintelligible(self._vault) from error


class _AppRoleLogin:
    def __init__(self, vault: Vault, config: AppRoleConfig) -> None:
        self._vault = vault
        self._config = config
        # A wrapping token is good for once; what was in it serves the logins after the first.
        self._unwrapped: tuple[bytes, Secret] | None = None

    def read(self) -> Secret:
        return self._config.secret_id.read_line()

    def exchange(self, credential: Secret) -> Grant:
        secret_id = self._unwrap(credential) if self._config.wrapped else credential
        api = AppRole(_adapter(self._vault, None))
        try:
            answer = api.login(
                self._config.role_id,
                secret_id.reveal().decode("ascii", "replace"),
                use_token=False,
                mount_point=self._config.mount,
            )
        except RefusedError as error:
            what = f"the AppRole login at auth/{self._config.mount}"
            _refuse(self._vault, what, f"put a new secret_id into the {self._config.secret_id}", error)
        return _grant(answer, fingerprint(credential), self._vault)

    def _unwrap(self, credential: Secret) -> Secret:
        if self._unwrapped is not None and self._unwrapped[0] == fingerprint(credential):
            return self._unwrapped[1]
        token = _token(credential, f"the {self._config.secret_id}")
        try:
            answer = Wrapping(_adapter(self._vault, token)).unwrap()
            secret_id = Secret(answer["data"]["secret_id"].encode())
        except RefusedError as error:
            what = f"unwrapping the secret_id in the {self._config.secret_id}"
            remedy = "put a new one there; if nobody used it knowingly, somebody else has read the secret_id"
            _refuse(self._vault, what, remedy, error)
        except (KeyError, TypeError, AttributeError) as error:
            raise BackendAccessError(f"what is wrapped in the {self._config.secret_id} is not a secret_id") from error
        self._unwrapped = (fingerprint(credential), secret_id)
        return secret_id


class _KubernetesLogin:
    def __init__(self, vault: Vault, config: KubernetesConfig) -> None:
        self._vault = vault
        self._config = config

    def read(self) -> Secret:
        # The kubelet makes it a symbolic link, and readable to the whole pod.
        try:
            with self._config.jwt_file.open("rb") as file:
                token = file.read(_MAX_TOKEN).strip()
        except OSError as error:
            raise BackendUnavailableError(f"cannot read the service account's token {self._config.jwt_file}; mount it") from error
        if not token:
            raise BackendUnavailableError(f"the service account's token {self._config.jwt_file} is empty")
        return Secret(token)

    def exchange(self, credential: Secret) -> Grant:
        api = Kubernetes(_adapter(self._vault, None))
        try:
            answer = api.login(
                self._config.role, credential.reveal().decode("ascii", "replace"), use_token=False, mount_point=self._config.mount
            )
        except RefusedError as error:
            what = f"the Kubernetes login at auth/{self._config.mount}"
            _refuse(self._vault, what, f"check that role {self._config.role!r} is bound to this service account", error)
        return _grant(answer, fingerprint(credential), self._vault)


class _CertLogin:
    def __init__(self, vault: Vault, config: CertConfig, certificate: Path) -> None:
        self._vault = vault
        self._config = config
        self._certificate = certificate

    def read(self) -> Secret:
        try:
            return Secret(self._certificate.read_bytes())
        except OSError as error:
            raise BackendUnavailableError(f"cannot read the certificate {self._certificate}") from error

    def exchange(self, credential: Secret) -> Grant:
        self._vault.reconnect()  # the certificate in the files may be a newer one
        body = {"name": self._config.name} if self._config.name is not None else {}
        # hvac's own method for this hands files to requests.
        reply = self._vault.send("POST", f"auth/{self._config.mount}/login", body, None, repeatable=True)
        if reply.status >= 400:
            what = f"the certificate login at auth/{self._config.mount}"
            remedy = f"check that the role takes {self._certificate}"
            _refuse(self._vault, what, remedy, RefusedError(reply))
        return _grant(reply.body, fingerprint(credential), self._vault)


def fingerprint(credential: Secret) -> bytes:
    """Return what tells one credential from another and is none itself."""
    return hashlib.sha256(credential.reveal()).digest()


def _from_agent(path: Path) -> Secret:
    """Read a token that Vault Agent or the like writes, with mode 0640 unless it is told otherwise."""
    try:
        token = read_private(path, max_size=_MAX_TOKEN, forbidden_mode=0o037).strip()
    except UnsafeFileError as error:
        raise BackendConfigError(str(error)) from error
    except OSError as error:
        raise BackendUnavailableError(f"cannot read the token in {path}; check what should write it there") from error
    if not token:
        raise BackendUnavailableError(f"{path} is empty; check what should write a token there")
    return Secret(token)


def _token(credential: Secret, what: str) -> str:
    """Return a token as text. Anything else would show up in http.client's complaint about the header."""
    octets = credential.reveal().strip()
    if _TOKEN.fullmatch(octets) is None:
        raise BackendAccessError(f"{what} is no token; put one line with nothing but a token there")
    return octets.decode("ascii")


def _adapter(vault: Vault, token: str | None) -> HvacAdapter:
    def send(method: str, path: str, body: object) -> Reply:
        return vault.send(method, path, body, token, repeatable=method == "GET")

    return HvacAdapter(send)


def _grant(answer: Any, credential: bytes, vault: Vault) -> Grant:
    try:
        auth = answer["auth"]
        token = str(auth["client_token"])
        grant = Grant(token, float(auth["lease_duration"]), bool(auth["renewable"]), credential)
    except (KeyError, TypeError, ValueError) as error:
        raise _unintelligible(vault) from error
    if _TOKEN.fullmatch(token.encode()) is None:  # it goes into a header; an error there would quote it
        raise _unintelligible(vault)
    return grant


def _refuse(vault: Vault, what: str, remedy: str, error: RefusedError) -> NoReturn:
    if error.reply.status >= 500:
        raise BackendUnavailableError(f"vault at {vault.address} fails at {what}: {error.reply.words}") from error
    raise BackendAccessError(f"vault at {vault.address} refuses {what} ({error.reply.words}); {remedy}") from error


def _unintelligible(vault: Vault) -> BackendError:
    return BackendUnavailableError(f"{vault.address} does not answer as vault does; check the address")
