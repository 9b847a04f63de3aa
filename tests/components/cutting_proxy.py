"""A TCP proxy that passes everything on and, when told to, cuts the line instead of bringing an answer back."""

import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CuttingProxy:
    """Stands in front of one port of this machine."""

    def __init__(self, port: int) -> None:
        self.requests: list[bytes] = []
        self._cut: tuple[bytes, int] = (b"", 0)
        self._before: tuple[bytes, Callable[[], None]] | None = None
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", port)) as server:
                    while request := _message(self.request):
                        proxy.requests.append(request)
                        proxy._run_hook(request)
                        server.sendall(request)
                        answer = _message(server)
                        if not answer or proxy._cuts(request):
                            return
                        self.request.sendall(answer)

        class Acceptor(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Acceptor(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def cut(self, start: bytes, times: int) -> None:
        """Cut the line at the answers to the next so many requests that begin with this."""
        self._cut = start, times

    def before(self, part: bytes, do: Callable[[], None]) -> None:
        """Run something once before the next request with this in its first line is passed on."""
        self._before = part, do

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _cuts(self, request: bytes) -> bool:
        start, times = self._cut
        if times and request.startswith(start):
            self._cut = start, times - 1
            return True
        return False

    def _run_hook(self, request: bytes) -> None:
        if self._before is not None and self._before[0] in request.partition(b"\r\n")[0]:
            _, do = self._before
            self._before = None
            do()


def _message(source: socket.socket) -> bytes:
    """Read one HTTP message with a Content-Length or no body; nothing when the other end has closed."""
    message = b""
    while b"\r\n\r\n" not in message:
        part = source.recv(65536)
        if not part:
            return b""
        message += part
    head, _, body = message.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while length is not None and len(body) < int(length[1]):
        body += source.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def cutting_proxy(address: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(int(address.rpartition(":")[2]))
    try:
        yield proxy
    finally:
        proxy.close()
