"""A daemon of several processes, and what tests see of each."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
from click.testing import CliRunner, Result
from daemon_process import DaemonProcess
from gated import copy_of_python
from ports import free_ports
from worker_agents import Agent

from keyd.cli import cli

WORKERS = """
[metrics]
listen = "127.0.0.1:0"
[connections]
max_per_caller = 60
[grants.operators]
principals = [{{ executable = "{python}" }}]
operations = ["*"]
keys = ["*"]
purposes = ["raw"]
[grants.alpha]
principals = [{{ executable = "{directory}/alpha" }}]
keys = ["shared", "alpha"]
purposes = ["raw"]
[grants.beta]
principals = [{{ executable = "{directory}/beta" }}]
keys = ["shared", "beta"]
purposes = ["raw"]
[grants.few]
principals = [{{ executable = "{directory}/few" }}]
keys = ["shared"]
purposes = ["raw"]
rate = 0.01
burst = 5
[grants.network]
principals = [{{ loopback = true }}]
keys = ["shared"]
purposes = ["raw"]
[tcp.local]
listen = "127.0.0.1:{port}"
plaintext = true
"""
NAMES = ("alpha", "beta", "few")


class Workers(DaemonProcess):
    """A daemon with two workers, and programs that call it."""

    def __init__(self, sections: str = "", **given: object) -> None:
        """``sections`` is more configuration, in which ``given`` has a place."""
        super().__init__()
        text = self.config.read_text().replace("[http]", "workers = 2\n[http]", 1)
        (self.port,) = free_ports(1)
        self.exec = True  # it is about processes
        values = {"python": os.path.realpath(sys.executable), "directory": self.directory, "port": self.port, **given}
        self.config.write_text(text + (WORKERS + sections).format(**values))
        for name in NAMES:
            copy_of_python(self.directory / name)
        self.agents: dict[str, Agent] = {}
        self.starts = 0
        # A dozen processes import all of keyd here; each compiling it anew would take more time than all else.
        self.env = {"PYTHONDONTWRITEBYTECODE": ""}

    def agent(self, name: str) -> Agent:
        if name not in self.agents:
            self.agents[name] = Agent(self.directory / name, self.address)
        return self.agents[name]

    def wait_until_up(self) -> None:
        self.starts += 1
        wait_for(lambda: sum(event.get("event") == "serving" for event in self.events()) == self.starts, 120)
        super().wait_until_up()

    def events(self) -> list[dict[str, object]]:
        """What is in the log, whole lines only: one may be being written."""
        whole = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def pids(self) -> list[int]:
        """The workers' process ids."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def done_by(self, operation: str = "sign") -> Counter[str]:
        """How often each worker has done this, by its number."""
        url = [str(event["metrics"]) for event in self.events() if event.get("event") == "serving"][-1]
        pattern = rf'keyd_decisions_total\{{operation="{operation}",reason="",worker="(\d)"\}} ([0-9.]+)'
        found = re.findall(pattern, httpx.get(url).text)
        return Counter({number: int(float(count)) for number, count in found})

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        """Stop it if it runs: whether the test before did depends on which tests a test process was given."""
        if self.runs():
            self.stop()

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def leave_agents(self) -> None:
        """Have new programs from here on: those that found nobody there pause before they connect again."""
        for agent in self.agents.values():
            agent.__exit__()
        self.agents.clear()

    def close(self) -> None:
        self.leave_agents()
        super().close()


def wait_for(done: object, seconds: float = 60) -> None:
    """Wait until ``done()``, which another process brings about."""
    deadline = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def kid(daemon: Workers, key: str) -> str:
    with daemon.client() as client:
        active = client.key_info(key).active
    return "none" if active is None else f"kid {active.kid}"


def number_of(daemon: Workers, agent: Agent) -> str:
    """Return which worker serves a program."""
    before = daemon.done_by()
    agent.sign("shared")
    (number,) = daemon.done_by() - before
    return number


def together(daemon: Workers) -> bool:
    """Say whether two programs have one worker. Those of a worker that ends go to another one, and stay there."""
    agents = [daemon.agent("alpha"), daemon.agent("beta")]
    for agent in agents:
        wait_for(lambda agent=agent: agent.sign("shared").startswith("kid"))
    return len({number_of(daemon, agent) for agent in agents}) == 1


def process_of(daemon: Workers, number: str) -> int:
    return next(pid for pid in daemon.pids() if f"--number={number}" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"))


def reloaded(daemon: Workers, text: str) -> None:
    """Have the daemon take over another configuration."""

    def times() -> int:
        return sum(event.get("event") == "configuration reloaded" for event in daemon.events())

    before = times()
    daemon.config.write_text(text)
    daemon.send(signal.SIGHUP)
    wait_for(lambda: times() > before)


def serving(daemon: Workers, number: str) -> bool:
    """Say whether the newest process of a worker serves: it does as often as it was started anew, and once more."""
    events = [event for event in daemon.events() if str(event.get("worker")) == number]
    names = Counter(str(event.get("event")) for event in events)
    return names["worker serves"] > names["worker ended, another one is started"]


def keyd(daemon: Workers, *arguments: str) -> Result:
    command = [*arguments, "--config", str(daemon.config)]
    return CliRunner().invoke(cli, command, env={**daemon.env, "KEYD_ADDRESS": daemon.address}, prog_name="keyd")
