# SPDX-License-Identifier: GPL-3.0-or-later
"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


class Process(Protocol):
    """What is asked of controller and operator: ``metrics`` has a ``registry``."""

    metrics: Any

    def trouble(self) -> str:
        """Why the process should be restarted; empty while it works."""

    def unready(self) -> str:
        """Why it does not do its work yet; empty once it does."""


class _DualStackServer(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(controller: Process, port: int, host: str = "") -> ThreadingHTTPServer:
    """Answer in a thread of its own; the server that was started is returned, bound already.

    :param host: an IPv4 address to listen on; empty: on all there are.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, generate_latest(controller.metrics.registry), CONTENT_TYPE_LATEST)
            elif self.path in ("/healthz", "/readyz"):
                trouble = controller.trouble() if self.path == "/healthz" else controller.unready()
                self._answer(503 if trouble else 200, f"{trouble or 'ok'}\n".encode(), "text/plain; charset=utf-8")
            else:
                self._answer(404, b"there are /healthz, /readyz and /metrics\n", "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds; the log is for decisions."""

    dual = _DualStackServer.address_family == socket.AF_INET6
    server = _DualStackServer((f"::{'ffff:' if host else ''}{host}" if dual else host, port), Handler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
