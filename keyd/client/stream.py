"""The pipelined stream of :meth:`keyd.client.AsyncClient.sign_stream`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from keyd.client import calls
from keyd.client.errors import DeadlineExceeded, InternalError, KeydClientError, from_rpc_error
from keyd.client.inputs import SignInput
from keyd.client.model import Signature
from keyd.v1 import signing_service_pb2 as pb


async def sign_stream(
    method: Callable[[AsyncIterator[pb.SignStreamRequest]], Any], items: AsyncIterable[SignInput], patience: float, address: str
) -> AsyncIterator[tuple[int, Signature | KeydClientError]]:
    """Send inputs as they come and yield their positions and results as keyd returns them.

    Args:
        method: ``SignStream`` of the asyncio stub.
        items: the inputs.
        patience: seconds that an input may wait for its result.
        address: where the call goes, for messages.
    """
    pipeline = _Pipeline(items, patience)
    call = method(pipeline.requests())
    pipeline.on_late = call.cancel
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            yield pipeline.settle(response)
    except grpc.RpcError as exc:
        raise from_rpc_error(exc, address) from exc
    except asyncio.CancelledError:
        if not pipeline.late or _is_cancelled():
            raise
        raise DeadlineExceeded(
            f"keyd at {address} left an input of the stream unanswered for {patience:g} s", grpc.StatusCode.DEADLINE_EXCEEDED
        ) from None
    finally:
        call.cancel()
        pipeline.stop()
    pipeline.check_complete()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Pipeline:
    """What has been sent, and waits for its answer.

    Attributes:
        late: something waited for too long.
        on_late: what is called then.
    """

    def __init__(self, items: AsyncIterable[SignInput], patience: float) -> None:
        self.late = False
        self.on_late: Callable[[], object] = lambda: None
        self._items = items
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[float, str | None]] = {}  # by position, oldest first: since when, and the kid asked for
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None

    async def requests(self) -> AsyncIterator[pb.SignStreamRequest]:
        position = 0
        try:
            async for item in self._items:
                request = pb.SignStreamRequest(id=position, request=calls.sign_request(item))
                self._waiting[position] = (self._loop.time(), item.kid)
                if self._timer is None:
                    self._timer = self._loop.call_later(self._patience, self._look)
                position += 1
                yield request
        except Exception as exc:  # noqa: BLE001 - whatever the caller's iterator raises; grpc would only log it
            self._failure = exc

    def _look(self) -> None:
        """See whether the oldest is late. One timer for all: a stream with nothing to answer may be quiet for ever."""
        self._timer = None
        if not self._waiting:
            return
        oldest, _ = next(iter(self._waiting.values()))
        if oldest + self._patience > self._loop.time():
            self._timer = self._loop.call_at(oldest + self._patience, self._look)
        else:
            self.late = True
            self.on_late()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def settle(self, response: pb.SignStreamResponse) -> tuple[int, Signature | KeydClientError]:
        """Return the position and the result of an answer."""
        if response.id not in self._waiting:
            raise InternalError("keyd answered a request that the stream did not send", grpc.StatusCode.INTERNAL)
        _, asked_kid = self._waiting.pop(response.id)
        return response.id, calls.result(response.result, asked_kid)

    def check_complete(self) -> None:
        """Raise what the caller's iterator raised, or InternalError when an input has no result."""
        if self._failure is not None:
            raise self._failure
        if self._waiting:
            raise InternalError(f"keyd ended the stream with {len(self._waiting)} inputs unanswered", grpc.StatusCode.INTERNAL)
