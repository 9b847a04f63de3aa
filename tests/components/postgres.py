"""A real PostgreSQL server for the tests of this process, and a database of its own for each that wants one."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from components.openbao import state, until
from ports import free_ports
from psycopg.conninfo import make_conninfo

#: Owns every database of :meth:`PostgreSql.database`, and is no superuser.
USER = "keyd"
PASSWORD = "päss word's \\ 2357"
#: Configuration of a replica of this name; the password is in the variable of its environment.
REPLICA = """
[store]
url = "{url}"
password = {{ env = "KEYD_TEST_DB" }}
replica = "{replica}"
[audit]
key = "audit-{replica}"
"""
_START = 60.0  # seconds that the server may take to answer; longer after a crash than otherwise

# Over the socket everybody is who he says. Over TCP the password counts.
_HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
# Tests have no power cuts, so nothing has to reach the disk; what is committed reaches the kernel, and survives a kill.
_CONF = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{directory}'
max_connections = 200
shared_buffers = 32MB
fsync = off
full_page_writes = off
timezone = 'UTC'
"""


class PostgreSql:
    """One server with a Unix socket and a TCP port. It is run by the user ``postgres`` where the tests are run by root."""

    def __init__(self, directory: Path) -> None:
        """Make a cluster in ``directory``, which is given away, and start it."""
        self.directory = directory
        self.port = free_ports(1)[0]
        self._programs = _programs()
        self._numbers = itertools.count(1)
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(directory, "postgres", "postgres")
        command = [self._programs / "initdb", "-D", directory / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        command += ["--no-sync", "--locale=C.UTF-8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, **self._as_user)
        (directory / "data/pg_hba.conf").write_text(_HBA)
        with (directory / "data/postgresql.conf").open("a") as file:
            file.write(_CONF.format(port=self.port, directory=directory))
        self.process = self._run()
        self.execute(psycopg.sql.SQL("CREATE USER {} PASSWORD {}").format(psycopg.sql.Identifier(USER), PASSWORD))

    def execute(self, statement: Any, parameters: Any = None, *, database: str = "postgres") -> list[Any]:
        """Run a statement as superuser and return the rows, if it has any."""
        where = make_conninfo(host=str(self.directory), port=self.port, dbname=database, user="postgres", connect_timeout=10)
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def database(self) -> Database:
        """Make an empty database, which is there until :meth:`Database.drop`, or until the server ends."""
        name = f"keyd_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER}")
        return Database(self, name)

    def stop(self) -> None:
        """Stop in order. Connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and everything that serves its connections with SIGKILL. It recovers at :meth:`start`."""
        self._end(signal.SIGKILL)

    def start(self) -> None:
        """Start again after :meth:`stop` or :meth:`kill`, and return when it answers."""
        self.process = self._run()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be stopped meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Answer nothing meanwhile, with every connection still there."""
        processes = self._processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            # One that was about to end is a zombie now: its parent, who would see to it, is stopped.
            until(lambda: all(state(Path(f"/proc/{process}")) in "TZX" for process in processes))
            yield
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """Return the ids of the server's processes, its own first: it starts those that serve connections."""
        server = self.process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return [server, *map(int, children)]

    def _end(self, number: signal.Signals) -> None:
        if self.process.poll() is not None:
            return
        if number is signal.SIGKILL:  # it must not start one more for somebody who connects just then
            os.kill(self.process.pid, signal.SIGSTOP)
            until(lambda: state(Path(f"/proc/{self.process.pid}")) == "T")
        processes = self._processes()
        for process in processes if number is signal.SIGKILL else processes[:1]:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        self.process.wait(30)
        # The next server refuses to start while one of these still has the shared memory.
        until(lambda: not any(_runs(process) for process in processes))

    def _run(self) -> subprocess.Popen[bytes]:
        log = self.directory / "log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.directory / "data"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.directory,
                start_new_session=True,  # what is typed at the terminal of the tests is not meant for it
                **self._as_user,
            )
        self.process = process
        end = time.monotonic() + _START
        while True:
            try:
                self.execute("SELECT 1")
                return process
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"PostgreSQL does not start: {log.read_text()[-2000:]}") from None
                time.sleep(0.02)


@dataclass(frozen=True)
class Database:
    """One database, which belongs to :data:`USER`."""

    server: PostgreSql
    name: str

    @property
    def url(self) -> str:
        """For ``store.url``: over the socket, which asks for no password."""
        return f"postgresql://{USER}@/{self.name}?host={self.server.directory}&port={self.server.port}"

    @property
    def tcp_url(self) -> str:
        """For ``store.url``: over TCP, with :data:`PASSWORD`."""
        return f"postgresql://{USER}@127.0.0.1:{self.server.port}/{self.name}"

    @property
    def conninfo(self) -> str:
        """For libpq, over the socket."""
        return make_conninfo(host=str(self.server.directory), port=self.server.port, dbname=self.name, user=USER)

    def execute(self, statement: Any, parameters: Any = None) -> list[Any]:
        """Run a statement as superuser and return the rows, if it has any."""
        return self.server.execute(statement, parameters, database=self.name)

    def drop(self) -> None:
        """Remove it, whoever is connected."""
        self.server.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


@functools.cache
def shared() -> PostgreSql:
    """Return the one server of this process, which ends with it. Whoever stops it starts it again."""
    directory = Path(tempfile.mkdtemp(prefix="keyd-pg-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = PostgreSql(directory)
    atexit.register(server.kill)
    return server


@contextmanager
def fresh_database() -> Iterator[Database]:
    """Make a database on the shared server, and remove it in the end."""
    database = shared().database()
    try:
        yield database
    finally:
        database.drop()


def _runs(process: int) -> bool:
    """Say whether a process still runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _programs() -> Path:
    """Return the directory of the server's programs: Debian keeps them away from PATH, by version."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    found = versions[-1] if versions else shutil.which("postgres")
    if found is None:
        raise RuntimeError("PostgreSQL is not installed; .ci/install-components does it")
    return Path(found).parent
