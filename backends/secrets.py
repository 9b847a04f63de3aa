"""Secrets that the configuration points to and never holds: PINs, tokens, passphrases, key-encryption keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from backends._files import UnsafeFileError, read_private
from backends.errors import BackendConfigError

_MAX_SIZE = 64 * 1024

_EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_CredentialName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=255)]


class Secret:
    """Bytes that no log, repr or traceback shows."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes themselves. Call it as late as possible, and keep the result in no attribute."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(*****)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled or copied")


class SecretRef(BaseModel):
    """Where a secret is kept: exactly one of a file, an environment variable and a systemd credential."""

    # The value that an operator put in the wrong place may be the secret itself.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    file: Path | None = None
    env: _EnvName | None = None
    #: The name of a file in ``$CREDENTIALS_DIRECTORY`` (systemd.exec(5), ``LoadCredential=``).
    credential: _CredentialName | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(place is not None for place in (self.file, self.env, self.credential)) != 1:
            raise ValueError("give exactly one of file, env and credential")
        return self

    def __str__(self) -> str:
        if self.file is not None:
            return f"file {self.file}"
        return f"environment variable {self.env}" if self.env is not None else f"credential {self.credential}"

    def read(self) -> Secret:
        """Return the secret's bytes as they are.

        Raises:
            BackendConfigError: there is none, it is empty, or others could read or replace it.
        """
        if self.file is not None:
            value = self._read_file(self.file, forbidden_mode=0o077)
        elif self.env is not None:
            value = os.environb.get(self.env.encode(), b"")
            if not value:
                raise BackendConfigError(f"the {self} is not set or empty; set it for the daemon")
        else:
            # systemd makes these 0400, or 0440 where it lets the unit's user in by an ACL, whose mask shows as the group.
            value = self._read_file(self._credential_path(), forbidden_mode=0o037)
        if not value:
            raise BackendConfigError(f"the {self} is empty; put the secret there")
        return Secret(value)

    def read_line(self) -> Secret:
        """Return the secret without one line ending at its end, which editors and ``echo`` add to passphrases and PINs.

        Raises:
            BackendConfigError: as :meth:`read`.
        """
        value = self.read().reveal()
        if value.endswith(b"\n"):
            value = value[:-1].removesuffix(b"\r")
        if not value:
            raise BackendConfigError(f"the {self} is an empty line; put the secret there")
        return Secret(value)

    def _credential_path(self) -> Path:
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not Path(directory).is_absolute():
            raise BackendConfigError(
                f"there is no directory for the {self}; start keyd from a systemd unit with LoadCredential={self.credential}:PATH"
            )
        return Path(directory, str(self.credential))

    def _read_file(self, path: Path, *, forbidden_mode: int) -> bytes:
        try:
            return read_private(path, max_size=_MAX_SIZE, forbidden_mode=forbidden_mode)
        except UnsafeFileError as error:
            raise BackendConfigError(str(error)) from error
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise BackendConfigError(f"cannot read the {self}: {reason}; check its path and owner") from error
