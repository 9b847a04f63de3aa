"""The configuration as values: one frozen model per section."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, create_model, field_validator, model_validator

from backends.api import Algorithm, BackendContext
from keyd.config.addresses import AbsolutePath, Listen, Listener, is_loopback, split_listen
from keyd.config.audit import Audit
from keyd.config.durations import Duration, OptionalDuration
from keyd.config.grants import GrantConfig, Limits, PolicySection
from keyd.config.issuers import IssuerSection
from keyd.config.kubernetes import Kubernetes
from keyd.config.listeners import Account, Connections, Mode, OwnSocket, SocketPath
from keyd.config.rotation import Rotation
from keyd.config.section import Section
from keyd.config.sessions import Sessions
from keyd.config.store import Store
from keyd.config.tcp import Tcp
from keyd.core import runner
from keyd.core.jwks import AlgStyle
from keyd.core.model import KidFormat
from keyd.core.profile import Profile
from keyd.core.timeline import LifecyclePolicy
from keyd.log import Format, Level


class Server(Section):
    """``[server]``: the daemon itself. Durations in seconds, sizes in bytes."""

    state_dir: AbsolutePath
    socket: SocketPath
    socket_mode: Mode = "0600"
    socket_owner: Account | None = None
    socket_group: Account | None = None
    drain_timeout: Duration = 10.0
    max_message_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1048576
    max_concurrent_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    transport: Literal["grpcio", "http2"] = "grpcio"
    workers: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="before")
    @classmethod
    def _places(cls, data: Any) -> Any:
        """Fill in the places that depend on the user and the environment."""
        if not isinstance(data, dict):
            return data
        state_dir = data["state_dir"] if "state_dir" in data else str(_default_state_dir())
        # A state directory that is no path is one mistake, not also one about the socket.
        beside = state_dir if isinstance(state_dir, str) and state_dir.startswith("/") else "/"
        runtime_dir = "/run/keyd" if os.geteuid() == 0 else _runtime_dir() or beside
        return {"state_dir": state_dir, "socket": f"{runtime_dir}/keyd.sock", **data}


def _default_state_dir() -> Path:
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd separates several by colons
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/keyd")
    home = os.environ.get("XDG_STATE_HOME", "")
    try:
        # The XDG specification has relative paths ignored.
        return (Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()) / "keyd"
    except RuntimeError:
        raise ValueError("the user has no home directory; set state_dir") from None


def _runtime_dir() -> str | None:
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{directory}/keyd" if directory.startswith("/") else None


class Http(Listener):
    """``[http]``: the publication endpoint."""

    enabled: bool = True
    listen: Listen = "127.0.0.1:8470"
    #: Never None once it is read: see :meth:`_apart`.
    own_process: Annotated[bool | None, Field(validate_default=True)] = None

    @field_validator("own_process")
    @classmethod
    def _apart(cls, value: bool | None, info: ValidationInfo) -> bool:
        """Fill in the default, true where others than this machine reach it, so that who writes it down has changed nothing."""
        if value is not None:
            return value
        # An address that is wrong is not there, and refused anyway.
        return "listen" in info.data and not is_loopback(split_listen(info.data["listen"])[0])


class Metrics(Section):
    """``[metrics]``: figures for Prometheus, on a listener of their own. Without ``listen`` there is none."""

    listen: Listen | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host, without brackets, and port."""
        return None if self.listen is None else split_listen(self.listen)


class Jwks(Section):
    """``[jwks]``: how long, in seconds, a JWK Set may be cached, how its keys name their algorithm, and how many they may be."""

    max_age: Annotated[Duration, Field(ge=1)] = 300.0
    alg: AlgStyle = "jose"
    max_keys: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


class Defaults(Section):
    """``[defaults]``: what a new key gets when its creator does not say. Periods in seconds."""

    backend: str = "file"
    algorithm: Algorithm = Algorithm.ED25519
    profile: str = "rfc9421"
    kid_format: KidFormat = KidFormat.THUMBPRINT
    publish_lead: Duration = 24 * 3600.0
    sign_grace: Duration = 300.0
    retention: Duration = 48 * 3600.0
    rotation_period: OptionalDuration = 30 * 86400.0
    destroy_after: OptionalDuration = 30 * 86400.0

    @property
    def lifecycle(self) -> LifecyclePolicy:
        """Return the periods as the core has them."""
        return LifecyclePolicy(
            self.publish_lead,
            self.sign_grace,
            self.retention,
            inf if self.rotation_period is None else self.rotation_period,
            inf if self.destroy_after is None else self.destroy_after,
        )


class Log(Section):
    """``[log]``."""

    level: Level = "info"
    format: Format = "auto"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else Field(default_factory=field.default_factory)


def _profile_section() -> type[Section]:
    """Return a model with the fields of a profile. Every float there is a number of seconds, so every one is a duration here."""
    types: dict[Any, Any] = {float: Duration, float | None: OptionalDuration, Mapping[str, float]: dict[str, Duration]}
    hints = typing.get_type_hints(Profile)
    fields: dict[str, Any] = {
        field.name: (types.get(hints[field.name], hints[field.name]), _default(field))
        for field in dataclasses.fields(Profile)
        if field.name != "name"
    }
    return create_model("ProfileSection", __base__=Section, **fields)


ProfileSection = _profile_section()


class BackendLimits(Section):
    """The fields of ``[backends.NAME]`` that bound the calls of any backend. Durations in seconds."""

    timeout: Annotated[Duration, Field(ge=0.05, le=300)] = runner.Limits.timeout
    admin_timeout: Annotated[Duration, Field(ge=0.05, le=3600)] = runner.Limits.admin_timeout
    threads: Annotated[int, Field(ge=1, le=256)] = runner.Limits.threads
    max_waiting: Annotated[int, Field(ge=1, le=100_000)] = runner.Limits.max_waiting

    def to_limits(self) -> runner.Limits:
        """Return them as the core has them."""
        return runner.Limits(**dict(self))


@dataclasses.dataclass(frozen=True, slots=True)
class BackendConfig:
    """One ``[backends.NAME]``: an instance of the ``Config`` of its backend type, and what bounds its calls."""

    name: str
    type: str
    options: BaseModel
    limits: BackendLimits


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, consistent in itself.

    Attributes:
        sockets: those that belong to one principal each, by name.
        tcp: listeners for callers on other machines, by name.
        kubernetes: None where no cluster has its tokens signed.
        grants: by name, in the order of the file.
        issuers: by name.
        profiles: the built-in ones and the file's, by name.
        backends: at least one, by name.
        first_run_allowed: there is no configuration file, so a backend may make what it lacks.
    """

    server: Server
    store: Store
    connections: Connections
    sockets: Mapping[str, OwnSocket]
    tcp: Mapping[str, Tcp]
    kubernetes: Kubernetes | None
    http: Http
    metrics: Metrics
    jwks: Jwks
    defaults: Defaults
    rotation: Rotation
    sessions: Sessions
    log: Log
    limits: Limits
    policy: PolicySection
    grants: Mapping[str, GrantConfig]
    issuers: Mapping[str, IssuerSection]
    audit: Audit
    profiles: Mapping[str, Profile]
    backends: Mapping[str, BackendConfig]
    first_run_allowed: bool

    def backend_context(self, name: str) -> BackendContext:
        """Return what a backend is told when it is opened."""
        return BackendContext(name, self.server.state_dir / "backends" / name, first_run=self.first_run_allowed)
