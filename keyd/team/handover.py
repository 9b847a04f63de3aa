"""Hands connections from the process that accepts them to the one that serves them: descriptors over a socket pair (SCM_RIGHTS, unix(7)).

What goes along is written by keyd itself, never by a caller. The socket pair is of type SOCK_SEQPACKET: one message, one connection.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import Any

import orjson

from keyd.service.gate.entrance import Arrival
from keyd.service.gate.peer import Peer

_LONGEST = 256 * 1024
#: A connection, and three descriptors of whose it is.
_MOST_DESCRIPTORS = 4


class LostError(OSError):
    """A connection did not arrive whole, because this process has too many descriptors; what arrived of it is closed.

    Attributes:
        number: what the process that accepted it calls it, and counts it by.
    """

    def __init__(self, number: int) -> None:
        super().__init__("the descriptors of a connection did not arrive; raise LimitNOFILE")
        self.number = number


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a way to hand over: neither blocks."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def hand_over(end: socket.socket, arrival: Arrival) -> None:
    """Hand a connection over. The descriptors here stay open, and are the caller's to close.

    Raises:
        OSError: the other end is gone, or has not taken those before.
    """
    peer, held = (None, []) if arrival.peer is None else arrival.peer.parts()
    message = orjson.dumps({"number": arrival.number, "way": arrival.way, "address": arrival.address, "peer": peer})
    descriptors = array.array("i", [arrival.client.fileno(), *held])
    end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])


def taken(end: socket.socket) -> Arrival | None:
    """Take a connection that was handed over; None: the other end is gone.

    Raises:
        BlockingIOError: there is none.
        LostError: its descriptors did not all arrive; whoever accepted it still counts it.
        OSError: nothing can be taken.
    """
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
    message, ancillary, flags, _ = end.recvmsg(_LONGEST, room, socket.MSG_CMSG_CLOEXEC)
    if not message:
        return None
    descriptors = array.array("i")
    for _level, _kind, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    members: dict[str, Any] = orjson.loads(message)
    peer = members["peer"]
    if flags & socket.MSG_CTRUNC or len(descriptors) != 1 + (0 if peer is None else len(peer["descriptors"])):
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        raise LostError(members["number"])
    client = socket.socket(fileno=descriptors[0])
    client.setblocking(False)
    whose = None if peer is None else Peer.of_parts(peer, descriptors[1:])
    return Arrival(members["number"], members["way"], client, whose, members["address"])
