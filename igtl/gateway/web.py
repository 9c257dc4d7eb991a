"""The page of a gateway for those who watch it: /metrics and /healthz."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, ClassVar, Final

from igtl.gateway.config import Entry
from igtl.gateway.gateway import Gateway
from igtl.gateway.metrics import Metrics
from igtl.gateway.parts import Part

_MAX_REQUESTS: Final = 16  # at a time; more are not answered
_PATIENCE: Final = 5.0  # seconds for a client to say what it wants


class Web(Part):
    """Serves the metrics and the health of a gateway by HTTP.

    Args:
        address: host and port; port 0 takes a free one, see `port`.
    """

    word = "http"

    def __init__(self, address: tuple[str, int], gateway: Gateway, metrics: Metrics) -> None:
        super().__init__(Entry("", "http", address))
        self._gateway = gateway
        self._metrics = metrics
        self._server: _Server | None = None

    def run(self) -> None:
        """Serve the page until it is closed."""
        web = self

        class Handler(_Handler):
            pages: ClassVar[Any] = {"/metrics": web.metrics, "/healthz": web.health}

        class Server(_Server):
            address_family = socket.AF_INET6 if ":" in web.entry.place[0] else socket.AF_INET

        with Server(self.entry.place, Handler) as server:
            self._server = server
            self.opened()
            server.serve_forever(poll_interval=0.1)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def metrics(self, accept: str) -> tuple[int, str, bytes]:
        """Return status, content type and body."""
        body, kind = self._metrics.text(accept)
        return 200, kind, body

    def health(self, accept: str) -> tuple[int, str, bytes]:
        """Return status (200 if all that is required works, else 503), type, and all reasons."""
        gateway = self._gateway
        healthy = gateway.healthy
        told = {"healthy": healthy} | {
            word: {
                part.name: {"up": not (reason := part.reason), "reason": reason,
                            "required": part.required}
                for part in parts.values()
            }
            for word, parts in (("sources", gateway.sources), ("sinks", gateway.sinks))
        }  # fmt: skip
        return 200 if healthy else 503, "application/json", json.dumps(told).encode() + b"\n"

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        self._slots = threading.BoundedSemaphore(_MAX_REQUESTS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client that has left is no news."""


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[Any] = {}
    timeout = _PATIENCE
    server_version = "igtl"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request."""
        page = self.pages.get(self.path.partition("?")[0])
        status, kind, body = 404, "text/plain", b"there are /metrics and /healthz\n"
        if page is not None:
            status, kind, body = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests are no news."""
