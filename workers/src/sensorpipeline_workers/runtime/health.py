"""The HTTP endpoints that Kubernetes and Prometheus ask: /healthz, /readyz and /metrics on one port.

Liveness is backed by progress: a component calls `beat` from its real work loop, and is alive while the last beat is
recent. Readiness is what the component says of its connections.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

log = logging.getLogger(__name__)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Drops the line per request that the standard library would write."""


class Health:
    """Liveness and readiness of this process. `maximum_silence` is in seconds of monotonic time."""

    def __init__(self, *, maximum_silence: float = 60.0) -> None:
        self._maximum_silence = maximum_silence
        self._last_beat = time.monotonic()
        self._waiting_for: str | None = "start"
        self._documents: dict[str, bytes] = {}

    def beat(self) -> None:
        """Records that the work loop has gone round."""
        self._last_beat = time.monotonic()

    def set_ready(self) -> None:
        """Says that the component does its work."""
        if self._waiting_for is not None:
            log.info("ready")
        self._waiting_for = None

    def set_waiting(self, what: str) -> None:
        """Says what the component waits for; it is not ready until `set_ready`."""
        if self._waiting_for != what:
            log.info("waiting for %s", what)
        self._waiting_for = what

    def publish(self, path: str, document: bytes) -> None:
        """Serves a JSON document at a path, in place of the one that was published there before."""
        self._documents[path] = document

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent."""
        return time.monotonic() - self._last_beat <= self._maximum_silence

    @property
    def ready(self) -> bool:
        """Whether the component does its work."""
        return self._waiting_for is None

    def serve(self, port: int) -> None:
        """Serves the endpoints from a daemon thread on all interfaces. Raises OSError when the port is taken."""
        server = make_server("", port, self._application, server_class=_Server, handler_class=_QuietHandler)
        threading.Thread(target=server.serve_forever, name="health", daemon=True).start()

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            answer: Iterable[bytes] = make_wsgi_app()(environ, start_response)
            return answer
        if path in self._documents:
            start_response(f"{HTTPStatus.OK.value} OK", [("Content-Type", "application/json")])
            return [self._documents[path]]
        if path == "/healthz":
            good, text = self.alive, "alive" if self.alive else "no progress"
        elif path == "/readyz":
            good, text = self.ready, "ready" if self.ready else f"waiting for {self._waiting_for}"
        else:
            start_response(f"{HTTPStatus.NOT_FOUND.value} Not Found", [("Content-Type", "text/plain")])
            return [b"not found\n"]
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
        return [text.encode() + b"\n"]
