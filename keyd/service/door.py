"""The door: what every call comes through, whatever transport brings it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from keyd.core.errors import KeydError, MalformedError, OverloadedError, UnauthenticatedError
from keyd.core.rates import Holds
from keyd.service.call import Call, Caller
from keyd.service.gate.limits import Quota

#: Says who is at the other end of a connection, by the name that the transport has for it; None: unknown, and so refused.
Callers = Callable[[str], Caller | None]
_log = structlog.get_logger("keyd.grpc")


class Door:
    """Lets calls in, and counts them."""

    def __init__(self, calls: Quota) -> None:
        """``calls`` bounds the calls under way; several doors may share it."""
        self._calls = calls
        self._holds = Holds()

    def enter(self, caller: Caller | None, time_remaining: float | None) -> Call:
        """Let one call in, and count it until :meth:`leave`.

        Args:
            caller: None: the transport does not know who calls.
            time_remaining: seconds that the caller waits; None: any time.

        Raises:
            UnauthenticatedError: nobody knows who calls.
            OverloadedError: too many calls are under way.
        """
        if caller is None:
            raise UnauthenticatedError("keyd does not know who calls; connect to the socket that its configuration names")
        if not self._calls.enter(caller.principal.account):
            raise OverloadedError("too many calls under way; try again later, or see max_calls_per_caller in [connections]")
        return Call.of(caller, time_remaining)

    def leave(self, call: Call) -> None:
        """Note that a call is over."""
        self._calls.leave(call.principal.account)

    def decoded(self, decode: Callable[[Any], Any], request: Any, call: Call) -> Any:
        """Return the request. Who sends what is none has used up nothing of its rate yet, and so is not listened to for a while."""
        try:
            return decode(request)
        except MalformedError:
            self.hold(call.caller)
            raise

    def hold(self, caller: Caller | None) -> None:
        """Do not listen for a while to who makes a call that is none."""
        if caller is not None:
            caller.hold_back(self._holds.after_refusal(caller.principal.account, 0.0))


def decoder(method: MethodDescriptor) -> Callable[[bytes], Any]:
    """Return what parses the requests of a method, and raises MalformedError."""
    parse = GetMessageClass(method.input_type).FromString

    def decode(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            raise MalformedError(f"the request is not a {method.input_type.full_name}") from None

    return decode


def unexpected(name: str) -> KeydError:
    """Log the exception that is being handled, a defect of keyd's own, and return what the caller is told: not a word of what was in hand."""
    _log.exception("unexpected error", method=name)
    return KeydError("unexpected error; the daemon's log has the details")
