# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry on loopback, of a few lines, that answers as a test wants: well, badly, slowly, without an end."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.server
import ipaddress
import json
import pathlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
Handler = http.server.BaseHTTPRequestHandler


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Seen:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Server:
    """What is served under which path (content, type), what was asked, and what a test says instead.

    ``behave`` is asked first; it returns True if it has answered.
    """

    content: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    behave: Callable[[Handler], bool] = lambda _: False
    host: str = ""
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def put(self, repository: str, tag: str, content: bytes, kind: str) -> str:
        """Serve a manifest under its tag and its digest."""
        for name in (tag, digest(content)):
            self.content[f"/v2/{repository}/manifests/{name}"] = content, kind
        return digest(content)

    def image(
        self, repository: str, tag: str = "1", *, layers: tuple[int, ...] = (1000,), platform: str = "linux/amd64"
    ) -> str:
        """Serve an image with layers of these sizes (equal sizes are equal layers); its digest."""
        system, _slash, machine = platform.partition("/")
        config = json.dumps({"os": system, "architecture": machine, "of": repository}).encode()
        self.content[f"/v2/{repository}/blobs/{digest(config)}"] = config, "application/octet-stream"
        blobs = [{"digest": digest(b"%d" % size), "size": size} for size in layers]
        manifest = {"schemaVersion": 2, "config": {"digest": digest(config)}, "layers": blobs}
        return self.put(repository, tag, json.dumps(manifest).encode(), MANIFEST)

    def index(self, repository: str, tag: str = "1", *, platforms: dict[str, tuple[int, ...]]) -> str:
        """Serve an index of images; its digest."""
        entries: list[dict[str, Any]] = []
        for platform, layers in platforms.items():
            system, _slash, machine = platform.partition("/")
            made = self.image(repository, f"only-{machine}", layers=layers, platform=platform)
            entries.append({"digest": made, "platform": {"os": system, "architecture": machine}})
        entries.append({"digest": digest(b"x"), "platform": {"os": "unknown", "architecture": "unknown"}})
        return self.put(repository, tag, json.dumps({"manifests": entries}).encode(), INDEX)


def answer(handler: Handler, status: int, body: bytes = b"", **headers: str) -> bool:
    """Answer a request; underscores in the names of headers stand for hyphens."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
    return True


@contextlib.contextmanager
def serving(
    certificate: tuple[pathlib.Path, pathlib.Path] | None = None, address: str = "127.0.0.1"
) -> Iterator[Server]:
    """A server on a free port of loopback, with TLS if a certificate (and its key) is given.

    :param address: another one, of a network namespace of the tests' own.
    """
    server, lock = Server(), threading.Lock()

    class _Handler(Handler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def respond(self) -> None:
            with lock:
                server.seen.append(Seen(self.command, self.path, dict(self.headers.items())))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                with contextlib.suppress(OSError):
                    self._answer()
            finally:
                with lock:
                    server.at_once -= 1

        def _answer(self) -> None:
            if server.behave(self):
                return
            if self.path not in server.content:
                answer(self, 404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
                return
            body, kind = server.content[self.path]
            answer(self, 200, body, Content_Type=kind, Docker_Content_Digest=digest(body))

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "HEAD", "POST"):
        setattr(_Handler, f"do_{method}", _Handler.respond)

    class _Listener(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # Clients that hang up are what many tests are about.

    listener = _Listener((address, 0), _Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    server.host = f"{address}:{cast(tuple[str, int], listener.server_address)[1]}"
    thread = threading.Thread(target=lambda: listener.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def make_certificate(directory: pathlib.Path, for_address: str = "127.0.0.1") -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate for an address that nobody trusts yet, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(for_address))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "certificate.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    files[1].write_bytes(pem)
    return files
