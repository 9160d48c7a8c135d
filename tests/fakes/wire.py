"""HTTP/1.1 on a loopback port or a Unix socket, one thread a connection, as quiet as possible."""

import contextlib
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Request:
    """One request, and once it has been routed which operation it asks for."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    base_url: str
    op: str = "unknown"


@dataclass
class Response:
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    stream: Iterator[bytes] | None = None
    """Sent piece by piece instead of the body; where it raises a ConnectionError, broken off."""


def ranged(request: Request, headers: list[tuple[str, str]], data: bytes) -> Response:
    """Answer with a content, or with the rest of it that `Range: bytes=N-` asks for."""
    wanted = request.headers.get("Range")
    if wanted is None:
        return Response(200, headers, data)
    first = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if first >= len(data):
        return Response(416, [("Content-Range", f"bytes */{len(data)}")])
    content = ("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
    return Response(206, [*headers, content], data[first:])


Delivery = str
"""How a response reaches the client: "whole", "half" (then nothing), "not" (a reset).

Half of one without a body breaks off in its first line.
"""

_BROKEN = Response(400, [("Content-Type", "text/plain")], b"the fake broke")


_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on, and that is given to no one else while tests run.

    Who listens there has to set SO_REUSEADDR, as servers do.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _held.append(held)  # without it, whoever asks for any port may be given this one
    port: int = held.getsockname()[1]
    return port


class HttpServer(ThreadingHTTPServer):
    """Serves `answer` until it is stopped; then no thread and no connection is left."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 256

    def __init__(
        self,
        answer: Callable[[Any], tuple[Response, Delivery]],
        request_type: type[Request] = Request,
        socket_file: Path | None = None,
    ) -> None:
        if socket_file:
            self.address_family = socket.AF_UNIX
        super().__init__(str(socket_file) if socket_file else ("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.request_type = request_type
        port = self.server_address[1]
        self.url = f"unix://{socket_file}" if socket_file else f"http://127.0.0.1:{port}"
        self.broken: list[str] = []
        """Tracebacks of the fake's own mistakes."""
        self.accepted = 0
        self.change: Callable[[Any, Response], Response] = lambda request, response: response
        """What becomes of an answer on its way: a proxy's, or a service's that is not as it was."""
        self._connections: set[socket.socket] = set()
        self._resetting: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without looking up this machine's name

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes up the thread that reads from it
        self.server_close()
        self._thread.join()

    def reset(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._resetting.add(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        self.accepted += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        if request in self._resetting:
            self._resetting.discard(request)
            request.close()  # without the goodbye, so that the client sees a reset
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            self.broken.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: HttpServer

    @property
    def disable_nagle_algorithm(self) -> bool:
        return self.server.address_family == socket.AF_INET

    def _handle(self) -> None:
        request = self._request()
        try:
            response, delivery = self.server.answer(request)
        except Exception:  # noqa: BLE001 - the fake's own mistake must not look like a 500
            self.server.broken.append(traceback.format_exc())
            response, delivery = _BROKEN, "whole"
        else:
            response = self.server.change(request, response)
        if delivery == "not":
            self.server.reset(self.connection)
            self.close_connection = True
            return
        body = b"" if request.method == "HEAD" else response.body
        if delivery == "half":
            self.close_connection = True
            if not body:
                self.wfile.write(f"{self.protocol_version} {response.status}"[:-1].encode())
                return
        self.send_response_only(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if response.stream is not None:
            self._send_stream(response.stream)
            return
        told = any(name.lower() == "content-length" for name, _ in response.headers)
        if response.status not in (204, 304) and not told:  # of what a HEAD leaves out
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if delivery == "half" else body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def handle_expect_100(self) -> bool:
        asked = super().handle_expect_100()
        self.wfile.flush()  # else the client waits a second for it
        return asked

    def _send_stream(self, stream: Iterator[bytes]) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for piece in stream:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        query: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            # A name twice is made one that no operation knows.
            query[name if name not in query else f"{name} (again)"] = value
        return self.server.request_type(
            self.command, parts.path, query, self.headers, self._body(), self.server.url
        )

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def log_message(self, *_: Any) -> None:
        pass
