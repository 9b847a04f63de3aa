"""The composition root: builds the daemon from its configuration, runs it, and closes it in reverse order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.descriptor import ServiceDescriptor

from backends.errors import BackendConfigError, BackendError
from keyd import audit, log, plugins, process
from keyd import config as configuration
from keyd.config import Config, ConfigError
from keyd.core.clock import Clock
from keyd.core.clock_jumps import watch_for_jumps
from keyd.core.decision import NoAudit
from keyd.core.directories import Directories
from keyd.core.directory import PATH as DIRECTORY_PATH
from keyd.core.directory_signer import DirectorySigner
from keyd.core.documents import Documents
from keyd.core.errors import KeydError
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.kubernetes import ServiceAccounts
from keyd.core.monitor import Monitor
from keyd.core.planner_record import PlannerRecord
from keyd.core.policy import Policy
from keyd.core.profile import BUILT_IN
from keyd.core.publication import Publication
from keyd.core.rotator import Rotator
from keyd.core.runner import THREAD_PREFIX, BackendRunner
from keyd.core.sessions.book import SessionBook
from keyd.core.sessions.issuing import TokenIssuer
from keyd.core.sessions.revocations import Revocations
from keyd.core.sessions.signing import SessionSigner
from keyd.core.signing import Signer
from keyd.core.store import SqlStore
from keyd.externaljwt.v1 import api_pb2 as externaljwt_pb2
from keyd.fleet import Fleet
from keyd.front import Front
from keyd.places import raise_descriptor_limit, reserve, take_state, unix_ways
from keyd.service import directory as http_directory
from keyd.service import documents as http_documents
from keyd.service.admission import admitted
from keyd.service.audit import AuditService
from keyd.service.backends import BackendService
from keyd.service.gate.tcp import TcpListeners
from keyd.service.http import application, jwk_set
from keyd.service.http_ready import Ready
from keyd.service.http_server import HttpServer, bound
from keyd.service.keys import Defaults, KeyService
from keyd.service.kubernetes import ExternalJwtSigner
from keyd.service.metrics import CountedAudit, Metrics
from keyd.service.operators import for_operators
from keyd.service.pages import JWKS
from keyd.service.publisher.parent import Publisher
from keyd.service.sessions import SessionAdminService, SessionService
from keyd.service.signing import SigningService
from keyd.signals import Signals
from keyd.team.figures import figures_of_all
from keyd.team.heads import HeadsOfAll
from keyd.team.member import Member
from keyd.team.sessions import SessionsOfAll
from keyd.v1 import audit_service_pb2, backend_service_pb2, key_service_pb2, session_service_pb2, signing_service_pb2

_SIGNING = signing_service_pb2.DESCRIPTOR.services_by_name["SigningService"]
_SESSIONS = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
_SESSION_ADMIN = session_service_pb2.DESCRIPTOR.services_by_name["SessionAdminService"]
_KEYS = key_service_pb2.DESCRIPTOR.services_by_name["KeyService"]
_AUDIT = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"]
_BACKENDS = backend_service_pb2.DESCRIPTOR.services_by_name["BackendService"]
_KUBERNETES = externaljwt_pb2.DESCRIPTOR.services_by_name["ExternalJWTSigner"]
_log = structlog.get_logger("keyd")


@dataclass
class Daemon:
    """A running daemon: everything that a reload may replace in place."""

    config: Config
    keyring: Keyring
    monitor: Monitor
    rotator: Rotator
    guard: Guard
    signer: Signer
    publication: Publication
    sessions: SessionBook
    defaults: Defaults
    audit: audit.Kept | None = None
    http: HttpServer | Publisher | None = None
    metrics_port: int | None = None
    tcp: TcpListeners | None = None
    accounts: ServiceAccounts | None = None

    @property
    def http_port(self) -> int | None:
        """The port of the JWK Sets."""
        return None if self.http is None else self.http.port

    def apply(self, config: Config) -> None:
        """Take over the reloadable part of a configuration. Raises ConfigError, before anything has changed."""
        accounts = config.kubernetes.to_rules(config.jwks.max_age) if config.kubernetes is not None else None
        log.configure(config.log.level, config.log.format)
        profiles = {**BUILT_IN, **config.profiles}
        self.keyring.profiles = profiles
        self.keyring.served_max_age = config.jwks.max_age
        self.signer.profiles = profiles
        self.guard.policy = configuration.policy(config, owners={0, os.geteuid()})
        if self.audit is not None:
            self.audit.apply(config.audit.to_rules(), config.audit.checkpoint_interval, config.audit.checkpoint_records)
        self.rotator.rules = config.rotation.to_rules()
        self.publication.rules = configuration.publication(config)
        self.sessions.limits = config.sessions.to_limits()
        new = _defaults(config)
        for name in Defaults.__slots__:
            setattr(self.defaults, name, getattr(new, name))
        self.config = config
        self.keyring.wake()
        self.publication.warn_of_size()
        if self.accounts is not None and accounts is not None:
            self.accounts.rules = accounts
            self.accounts.warn()


def run(config: Config, config_path: Path | None) -> int:
    """Run the daemon until it is told to stop. Returns the exit code: 0, 1 when it cannot start, 8 when the configuration is why.

    Args:
        config: what ``config_path`` says; it is read again when the daemon is told to.
    """
    return finish(_run(config, config_path))


def finish(work: Coroutine[Any, Any, None]) -> int:
    """Run a daemon, or a worker of one, to its end. Returns the exit code, as :func:`run` does."""
    code = 0
    try:
        asyncio.run(work)
    except (BackendError, KeydError, plugins.PluginError, process.ProcessError, OSError, RuntimeError) as exc:
        _log.error("cannot start", error=str(exc))
        code = 8 if isinstance(exc, BackendConfigError | plugins.PluginError) else 1
    process.leave_behind_threads(THREAD_PREFIX, code)
    return code


async def _run(config: Config, config_path: Path | None) -> None:
    signals = Signals()
    async with AsyncExitStack() as stack:
        with process.settling():
            daemon = await start(config, stack)
        await signals.obey(partial(reload, daemon, config_path), config.server.drain_timeout)
    _log.info("stopped")


async def start(config: Config, stack: AsyncExitStack, clock: Clock | None = None, team: Member | None = None) -> Daemon:
    """Start every part; ``stack`` closes them in reverse order.

    Args:
        config: what :meth:`keyd.team.member.Member.own` returns, where there are other workers.
        stack: closes what was started.
        clock: that is the time, and nobody asks if it is right.
        team: the other workers. Whoever supervises them holds the lock of the state directory, and listens on the public addresses.
    """
    server = config.server
    cluster = config.kubernetes.to_rules(config.jwks.max_age) if config.kubernetes is not None else None
    if team is None:
        take_state(server.state_dir, stack)
    raise_descriptor_limit()
    own_sockets = config.sockets.keys() if team is None else team.share_of(config.sockets)
    public = [path for path, _ in unix_ways(config).values()] if team is None else []
    reserve([*public, *(config.sockets[name].path for name in own_sockets)], stack)
    runners = _open_backends(config, stack)
    store = await _open_store(config, runners, stack, team)
    conninfo = config.store.conninfo() if config.store.url is not None else None
    fleet = Fleet(store, conninfo, clock, None if team is None else team.plans)
    await fleet.tell_time(stack)
    keyring = Keyring(store, runners, fleet.clock, served_max_age=config.jwks.max_age)
    revocations = Revocations(fleet.clock, store)
    if team is not None:
        await team.join(keyring, revocations)
    await keyring.start()
    fleet.keep_time(keyring)
    kept = await audit.start(config, keyring, store, fleet.clock, stack)

    metrics = Metrics()
    trail = CountedAudit(kept.trail if kept is not None else NoAudit(), metrics)
    guard = Guard(Policy(), fleet.clock, trail)
    signer = Signer(keyring, {}, guard)
    signer.check_clock = fleet.check_signing
    publication = Publication(keyring, configuration.publication(config))
    issuer = TokenIssuer(keyring, publication, guard)
    sessions = SessionBook(keyring, guard, issuer, revocations)
    stack.callback(sessions.close_all)
    session_signer = SessionSigner(keyring, guard, sessions)
    issuer.check_clock = session_signer.check_clock = fleet.check_signing
    directories = Directories(publication, keyring, DirectorySigner(keyring, guard, fleet.check_signing))
    documents = Documents(fleet.clock, revocations)
    revocations.on_change = lambda: documents.warn_of_size(publication.rules.issuers.values())
    await revocations.refresh()

    async def report() -> None:
        await front.report({name: monitor.answers(name) for name in runners})

    monitor = Monitor(keyring, report)
    rotator = Rotator(keyring, config.rotation.to_rules(), fleet.leads, PlannerRecord(guard))
    metrics.watch_rotation(rotator)
    metrics.watch(keyring, monitor, publication)
    metrics.watch_directories(directories)
    metrics.watch_revoked(lambda: documents.revoked(publication.rules.issuers.values()))
    metrics.watch_replica(fleet.figures)
    metrics.watch_sessions(sessions)
    accounts = ServiceAccounts(keyring, cluster) if cluster is not None else None
    daemon = Daemon(
        config, keyring, monitor, rotator, guard, signer, publication, sessions, _defaults(config), kept, accounts=accounts
    )
    daemon.apply(config)
    types = {name: section.type for name, section in config.backends.items()}
    audit_service = AuditService(kept)
    session_admin = SessionAdminService(sessions, revocations, fleet.clock, publication)
    services = _services(
        guard,
        agents={
            _SIGNING: SigningService(keyring, signer, session_signer, publication, guard, documents),
            _SESSIONS: SessionService(sessions),
        },
        operators={
            _KEYS: KeyService(keyring, daemon.defaults, guard, rotator),
            _BACKENDS: BackendService(keyring, monitor, types),
            _AUDIT: audit_service if team is None else HeadsOfAll(audit_service, team),
            _SESSION_ADMIN: session_admin if team is None else SessionsOfAll(session_admin, team),
        },
    )

    if config.http.enabled:
        routes = [http_directory.route(directories, fleet.clock), *http_documents.routes(publication, documents, fleet.clock)]
        app = application(keyring, publication, monitor, routes)
        state = partial(_shown, keyring, publication, revocations, directories)
        ready = Ready(
            {
                JWKS: partial(jwk_set, keyring, publication, None),
                DIRECTORY_PATH: http_directory.finder(directories, fleet.clock),
                **http_documents.finders(publication, documents, fleet.clock),
            },
            lambda name: partial(jwk_set, keyring, publication, name),
            state,
            fleet.clock,
        )
        listener = _listener(config.http.host, config.http.port, None if team is None else team.http)
        logging = config.log.level, config.log.format
        http = Publisher(listener, app, ready, state, keyring.changed, logging) if config.http.own_process else None
        daemon.http = http or HttpServer(listener, app, ready)
        await daemon.http.start()
        stack.push_async_callback(daemon.http.stop)
    if config.metrics.address is not None:
        figures = metrics.application() if team is None else figures_of_all(metrics.registry, team)
        listener = _listener(*config.metrics.address, None if team is None else team.metrics)
        metrics_server = HttpServer(listener, figures)
        await metrics_server.start()
        stack.push_async_callback(metrics_server.stop)
        daemon.metrics_port = metrics_server.port
    of_cluster = {} if accounts is None else {_KUBERNETES: ExternalJwtSigner(accounts, keyring, signer, guard)}
    front = Front(services, config, _services(guard, agents=of_cluster, operators={}), own_sockets)
    if team is None:
        await front.start(stack)
    else:
        team.entrance = await front.start_behind(team, team.left, stack)
    daemon.tcp = front.tcp
    for name, runner in runners.items():
        if runner.backend.capabilities.in_process:
            await monitor.look(name)
    await report()
    fleet.follow(keyring, revocations, lambda right: monitor.withdraw(not right), stack)
    loops = (rotator.run(), monitor.run(), sessions.run(), directories.run(), watch_for_jumps(fleet.clock, keyring.wake))
    for work in loops:
        stack.callback(asyncio.create_task(work).cancel)
    stack.push_async_callback(monitor.withdraw)
    _tell(daemon, alone=team is None)
    return daemon


def _tell(daemon: Daemon, *, alone: bool) -> None:
    keys, config = len(daemon.keyring.snapshot.keys), daemon.config
    if not alone:
        _log.info("worker serves", keys=keys)
        return
    _log.info(
        "serving",
        socket=str(config.server.socket),
        kubernetes=str(config.kubernetes.socket) if config.kubernetes else None,
        jwks=f"http://{config.http.host}:{daemon.http_port}/.well-known/jwks.json" if daemon.http_port else None,
        metrics=f"http://{config.metrics.address[0]}:{daemon.metrics_port}/metrics" if config.metrics.address else None,
        keys=keys,
    )


def _services(
    guard: Guard, *, agents: Mapping[ServiceDescriptor, object], operators: Mapping[ServiceDescriptor, object]
) -> dict[ServiceDescriptor, object]:
    """Return the services as they are served: nothing reaches one but through the guard."""
    checked = {descriptor: for_operators(descriptor, service, guard) for descriptor, service in operators.items()}
    return {descriptor: admitted(descriptor, service, guard) for descriptor, service in {**agents, **checked}.items()}


def _open_backends(config: Config, stack: AsyncExitStack) -> dict[str, BackendRunner]:
    runners = {}
    for name, section in config.backends.items():
        backend = plugins.load(section.type).open(section.options, config.backend_context(name))
        runner = BackendRunner(name, backend, section.limits.to_limits())
        stack.callback(runner.close)
        runners[name] = runner
    return runners


async def _open_store(
    config: Config, runners: Mapping[str, BackendRunner], stack: AsyncExitStack, team: Member | None
) -> SqlStore:
    section = config.store
    if section.url is None:
        path = config.server.state_dir / "keyd.db"
        store = SqlStore(path) if team is None else team.open_store(path)
        stack.callback(store.close)
        return store
    store = await asyncio.to_thread(SqlStore.on_postgres, section.conninfo(), replica_name=section.replica)
    stack.callback(store.close)
    await asyncio.to_thread(store.register, section.replica)
    stack.push_async_callback(_leave, store)
    for name, runner in runners.items():
        if runner.backend.capabilities.in_process:
            _log.warning("other replicas cannot sign with the keys of this backend, which are on this machine", backend=name)
    return store


def _shown(keyring: Keyring, publication: Publication, revocations: Revocations, directories: Directories) -> tuple[object, ...]:
    """Return what everything that is published is made of: each another object once it has changed."""
    return keyring.snapshot, publication.rules, revocations.state, directories.generation


def _listener(host: str, port: int, given: socket.socket | None) -> socket.socket:
    """Return the socket that the supervisor gave this worker, or one that listens there. Raises OSError."""
    return bound(host, port) if given is None else given


async def _leave(store: SqlStore) -> None:
    try:
        await asyncio.to_thread(store.leave)
    except KeydError as exc:
        _log.warning("the other replicas were not told that this one stops; they see it soon", error=str(exc))


def _defaults(config: Config) -> Defaults:
    defaults = config.defaults
    return Defaults(
        backend=defaults.backend,
        algorithm=defaults.algorithm,
        profile=defaults.profile,
        kid_format=defaults.kid_format,
        lifecycle=defaults.lifecycle,
    )


def reload(daemon: Daemon, config_path: Path | None) -> None:
    """Read the configuration again and take it over, all of it or nothing; what is wrong with it is in the log."""
    process.notify("RELOADING=1")
    try:
        config = configuration.load(config_path)
        problems = configuration.reload_conflicts(daemon.config, config)
        if problems:
            raise ConfigError(problems)
        daemon.apply(config)
    except ConfigError as exc:
        for problem in exc.problems:
            _log.error("configuration not taken over, the old one stays", problem=str(problem))
    else:
        _log.info("configuration reloaded")
    if daemon.tcp is not None:
        daemon.tcp.refresh()
    process.notify("READY=1")
