"""A Hub for tests: a real HTTP server on 127.0.0.1 that huggingface_hub's own client can pull from and push to.

    with running_hub() as hub:
        hub.state.users["hf_ann"] = User("ann", orgs=("org",))
        repo = hub.state.add_repo("org/base", {"config.json": b"{}"}, private=True)
        hub.state.fail("GET", "/resolve/", 503, nth=2, times=3, retry_after="7")
        ...  # a client with HF_ENDPOINT=hub.url HF_HUB_DISABLE_XET=1, both set before huggingface_hub is imported
        hub.state.requests  # every request that came

Large files are answered by a redirect to a second server (another origin, as the real Hub's CDN) where ``with_cdn``.
It imitates what the client relies on: statuses, X-Error-Code, hashes, pages. It knows no pull requests or spaces, and
of Xet only the way to a folder.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from loopback_repos import HubState, Seen
from loopback_routes import ROUTES, Answer, RefusalError, Request


class Handler(BaseHTTPRequestHandler):
    """Reads a request, lets a planned fault have it, and sends what its route answers."""

    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        seen = Seen(self.command, self.path, headers)
        with self.server.state.lock:
            self.server.requests.append(seen)
        fault = self.server.state.fault_for(seen)
        trouble = fault.does if fault else None
        if trouble in ("close", "hang"):
            if trouble == "hang":
                self.server.stalled.set()
                self.server.released.wait(60)
            self.close_connection = True
        elif fault and isinstance(trouble, int):
            self._send(Answer(trouble, {"error": f"planned {trouble}"}, fault.headers), None)
        else:
            answer = self._routed(seen, body)
            if trouble == "lost":
                self.close_connection = True
            else:
                self._send(answer, trouble)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _chunk(self) -> bytes:
        chunk = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return chunk

    def _routed(self, seen: Seen, body: bytes) -> Answer:
        url = urlsplit(seen.path)
        method = "GET" if seen.method == "HEAD" else seen.method
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        for wanted, path, function in ROUTES:
            if wanted == method and (match := path.fullmatch(url.path)):
                try:
                    return function(Request(self.server, seen, body, match.groupdict(), query))
                except RefusalError as refusal:
                    return refusal.answer
        return Answer(404, {"error": f"no such place: {seen}"})

    def _send(self, answer: Answer, trouble: Any) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        half = len(content) // 2
        if trouble == "corrupt":
            content = bytes(255 - byte for byte in content)
        if trouble == "truncate":
            content = content[:half]
        self.send_response(answer.status)
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if trouble in ("cut", "reset"):
            content, self.close_connection = content[:half], True
        if trouble == "stall":
            self.wfile.write(content[:half])
            self.server.stalled.set()
            self.server.released.wait(60)
            content, self.close_connection = b"", True
        if self.command != "HEAD":
            self.wfile.write(content)
        if trouble == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.to_reset.add(self.connection)


class LoopbackHub(ThreadingHTTPServer):
    """The server. ``storage`` is where large files are: itself, or a server of another origin."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, state: HubState) -> None:
        self.state, self.released, self.stalled = state, threading.Event(), threading.Event()
        self.requests: list[Seen] = []
        self.knows_ranges = True
        self.to_reset: set[Any] = set()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = self

    def forget(self) -> None:
        """Begin anew: no users, repositories, faults and requests."""
        self.state = self.storage.state = HubState()
        self.requests, self.storage.requests = [], []
        for server in (self, self.storage):
            server.stalled.clear()
            server.released.clear()
        self.storage.knows_ranges = True

    def shutdown_request(self, request: Any) -> None:
        # A shutdown would end the connection in good order before it can be reset.
        if request in self.to_reset:
            self.to_reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_hub(with_cdn: bool = False) -> Iterator[LoopbackHub]:
    """A Hub while the block lasts; with a second server on another port for large files where ``with_cdn``."""
    state = HubState()
    with ExitStack() as stack:
        servers = [LoopbackHub(state) for _ in range(2 if with_cdn else 1)]
        for server in servers:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.callback(server.released.set)
        servers[0].storage = servers[-1]
        yield servers[0]
