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
    pipeline = _Pipeline(items, patience, address)
    call = method(pipeline.requests())
    try:
        while (response := await pipeline.read(call)) is not None:
            yield pipeline.settle(response)
    except grpc.RpcError as exc:
        raise from_rpc_error(exc, address) from exc
    finally:
        call.cancel()
    pipeline.check_complete()


class _Pipeline:
    def __init__(self, items: AsyncIterable[SignInput], patience: float, address: str) -> None:
        self._items = items
        self._patience = patience
        self._address = address
        self._now = asyncio.get_running_loop().time
        self._waiting: dict[int, tuple[float, str | None]] = {}  # by position, oldest first: since when, and the kid asked for
        self._failure: Exception | None = None

    async def requests(self) -> AsyncIterator[pb.SignStreamRequest]:
        position = 0
        try:
            async for item in self._items:
                request = pb.SignStreamRequest(id=position, request=calls.sign_request(item))
                self._waiting[position] = (self._now(), item.kid)
                position += 1
                yield request
        except Exception as exc:  # noqa: BLE001 - whatever the caller's iterator raises; grpc would only log it
            self._failure = exc

    async def read(self, call: Any) -> pb.SignStreamResponse | None:
        """Return the next answer, None at the end. A stream with nothing to answer may be quiet for ever."""
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                oldest, _ = next(iter(self._waiting.values()), (self._now(), None))
                left = oldest + self._patience - self._now()
                if left <= 0:
                    raise DeadlineExceeded(
                        f"keyd at {self._address} left an input of the stream unanswered for {self._patience:g} s",
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                    )
                await asyncio.wait((reading,), timeout=left)
            response = reading.result()
        finally:
            reading.cancel()
        return None if response is grpc.aio.EOF else response

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
