"""Passes bytes both ways between a caller and the server, as long as the caller is who it was.

This is on the path of every call: callbacks of the event loop, no task, no copy beyond the one that the kernel makes, and no more in
hand than one chunk each way.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from keyd.service.gate.peer import Peer, has_gone
from keyd.service.gate.private import Link
from keyd.service.gate.proof import PREFACE, Proof, ProofError

_CHUNK = 64 * 1024
#: Room for one struct ucred, exactly: descriptors that somebody sends along find none, and the kernel drops them.
_ANCILLARY = socket.CMSG_SPACE(12)
#: How long a client may take none of what is there for it, in seconds. Meanwhile the server is not read from, so that it cannot be
#: seen to have given up.
_STALLED = 60.0
_TRUNCATED = int(socket.MSG_CTRUNC)  # an enum's & takes longer than everything else that is asked of a chunk
_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class Relay:
    """One connection of a caller. It closes itself when one side does, or when the caller is not who it was."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: socket.socket,
        peer: Peer,
        spoke: Callable[[], None],
        complain: Callable[..., None],
        closed: Callable[[Relay], None],
        may_send: Callable[[bytes], bool],
    ) -> None:
        """``client`` is connected and not blocking, and has SO_PASSCRED; it and ``peer`` are closed with the relay.

        Args:
            spoke: called once the caller has shown that it speaks on the connection (:mod:`keyd.service.gate.proof`).
            complain: logs an event with its fields.
            closed: called once, when the relay has closed.
            may_send: says whether the caller may have a chunk passed on (:mod:`keyd.service.gate.resets`).
        """
        self._loop = loop
        self._client = client
        self._peer = peer
        self._spoke = spoke
        self._complain = complain
        self._closed = closed
        self._may_send = may_send
        self._expected = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, peer.credentials)]
        self._proof: Proof | None = Proof()
        self._link: Link | None = None
        self._server: socket.socket = client  # until start()
        self._to_server = self._to_client = memoryview(b"")
        self._client_ended = False
        self._held: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.open = True

    def start(self, link: Link) -> None:
        """Begin. The relay closes the link as well."""
        self._link, self._server = link, link.socket
        self._loop.add_reader(self._server, self._from_server)
        self._send_to_server(PREFACE)  # in place of the client's, which comes only with its proof
        if self._held is None:
            self._loop.add_reader(self._client, self._from_client)

    def hold_back(self, seconds: float) -> None:
        """Read nothing more from the caller for so many seconds; a longer time that runs already stays."""
        if not self.open:
            return
        if self._held is not None:
            if self._held.when() >= self._loop.time() + seconds:
                return
            self._held.cancel()
        self._loop.remove_reader(self._client)
        self._held = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._held = None
        if self.open and has_gone(self._client):  # what it left may have it held again, and again
            self.close()
        else:
            self._listen_to_client()

    def _listen_to_client(self) -> None:
        if self.open and self._held is None and not self._to_server and not self._client_ended and self._link is not None:
            self._loop.add_reader(self._client, self._from_client)

    def close(self, why: str | None = None) -> None:
        """Close both sides. ``why`` is for the log; without it, nothing is out of the ordinary."""
        if not self.open:
            return
        self.open = False
        if why is not None:
            self._complain("connection closed", reason=why, caller=str(self._peer.principal))
        for timer in (self._held, self._stalled):
            if timer is not None:
                timer.cancel()
        for each in {self._client, self._server}:
            self._loop.remove_reader(each)
            self._loop.remove_writer(each)
        if self._link is not None:
            self._link.close()
        self._client.close()
        self._peer.close()
        self._closed(self)

    def _from_client(self) -> None:
        try:
            data, ancillary, flags, _ = self._client.recvmsg(_CHUNK, _ANCILLARY)
        except _WOULD_BLOCK:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._end_of_client()
        elif ancillary != self._expected or flags & _TRUNCATED:
            self.close("another process, or another user, writes to it; each process needs a connection of its own")
        elif not self._peer.runs_the_same_program():
            self.close(
                "it executes another program now; each program needs a connection of its own" if self._peer.lives() else None
            )
        elif not self._may_send(data):
            self.close("it resets more calls than it may")
        elif self._proof is None:
            self._send_to_server(data)
        else:
            self._prove(self._proof, data)

    def _prove(self, proof: Proof, data: bytes) -> None:
        try:
            whole = proof.answered(data)
        except ProofError as error:
            self.close(str(error))
            return
        if whole is not None:
            self._proof = None
            self._spoke()
            self._send_to_server(whole)

    def _end_of_client(self) -> None:
        """Pass it on, and let the server finish what it has in hand; it closes its side then. Nothing is to be finished for who has gone."""
        if has_gone(self._client):  # a server that has stopped reading does not hear of it
            self.close()
            return
        self._client_ended = True
        self._loop.remove_reader(self._client)
        try:
            self._server.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def _send_to_server(self, data: bytes | memoryview) -> None:
        try:
            sent = self._server.send(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._to_server = memoryview(data)[sent:]
            self._loop.remove_reader(self._client)
            self._loop.add_writer(self._server, self._server_takes_more)

    def _server_takes_more(self) -> None:
        data, self._to_server = self._to_server, memoryview(b"")
        self._loop.remove_writer(self._server)
        self._send_to_server(data)
        self._listen_to_client()

    def _from_server(self) -> None:
        try:
            data = self._server.recv(_CHUNK)
        except _WOULD_BLOCK:
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()  # what it sent last is the client's to read all the same
        elif self._proof is None:
            self._send_to_client(data)
        else:
            self._ask(self._proof, data)

    def _ask(self, proof: Proof, data: bytes) -> None:
        try:
            self._send_to_client(proof.ask(data))
        except ProofError as error:
            self.close(str(error))

    def _send_to_client(self, data: bytes | memoryview) -> None:
        try:
            sent = self._client.send(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._to_client = memoryview(data)[sent:]
            self._loop.remove_reader(self._server)
            self._loop.add_writer(self._client, self._client_takes_more)
            self._stalled = self._loop.call_later(_STALLED, self.close, "it does not read what it is sent")

    def _client_takes_more(self) -> None:
        data, self._to_client = self._to_client, memoryview(b"")
        self._loop.remove_writer(self._client)
        if self._stalled is not None:
            self._stalled.cancel()
        self._send_to_client(data)
        if self.open and not self._to_client:
            self._loop.add_reader(self._server, self._from_server)
