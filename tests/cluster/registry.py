# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry that nodes see, in front of a real one, and the name server: a process that can misbehave on order.

Run as `registry.py CONFIG` (JSON: listen and backend as "address:port", faults and log as paths, name_servers: the
addresses to answer at, names: host -> address). Uses nothing but the standard library, because it runs without the
collection's environment.

The faults file is read anew for every request: a list of {"prefix": ..., "kind": ..., and options}; the last entry
whose prefix begins the repository counts. One line of JSON is logged for each request. The name server knows the given
names, never answers for names under hang.test, and says of all others that there is no such host.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http
import json
import pathlib
import re
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any

KINDS = {  # kind of fault -> its options
    "auth": {"user", "password"},
    "slow": {"bytes_per_second"},
    "delay": {"seconds"},
    "rate_limit": {"retry_after"},
    "error": {"status"},
    "hang": set[str](),
}
REPOSITORY = re.compile(r"^/v2/(.+)/(?:manifests|blobs|tags|referrers)/")
BLOCK = 1 << 16


def fault_for(faults: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The fault that a request for this path meets; {} for none."""
    match = REPOSITORY.match(path)
    found = [fault for fault in faults if match and match[1].startswith(fault["prefix"])]
    return found[-1] if found else {}


def refusal(fault: Mapping[str, Any], authorization: str) -> bytes:
    """The whole HTTP response of a fault that answers instead of the registry; b"" if it lets the request through."""
    match fault.get("kind"):
        case "auth":
            login = base64.b64encode(f"{fault['user']}:{fault['password']}".encode()).decode()
            if authorization != f"Basic {login}":
                return _error(401, "UNAUTHORIZED", 'WWW-Authenticate: Basic realm="test"')
        case "rate_limit":
            return _error(429, "TOOMANYREQUESTS", f"Retry-After: {fault['retry_after']}")
        case "error":
            return _error(fault["status"], "UNKNOWN")
    return b""


def _error(status: int, code: str, *headers: str) -> bytes:
    phrase = http.HTTPStatus(status).phrase
    body = json.dumps({"errors": [{"code": code, "message": phrase.lower()}]})
    fields = ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ("\r\n".join([f"HTTP/1.1 {status} {phrase}", *fields]) + "\r\n\r\n" + body).encode()


class Front:
    """The HTTP side: one request for each connection, handed on to the backend unless a fault says otherwise."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.backend = tuple(config["backend"].rsplit(":", 1))
        self.faults = pathlib.Path(config["faults"])
        self.log = pathlib.Path(config["log"])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        started = time.time()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            status = 0
            try:
                status = await self._answer(head, path, reader, writer)
            finally:
                entry = {"time": started, "method": method, "path": path, "status": status}
                with self.log.open("a") as log:
                    log.write(json.dumps(entry) + "\n")
        writer.close()

    async def _answer(self, head: str, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        fault = fault_for(json.loads(self.faults.read_text()), path)
        authorization = re.search(r"(?im)^authorization: *(.*?)\r$", head)
        if fault.get("kind") == "hang":
            await reader.read()  # until the client gives up
            return 0
        if fault.get("kind") == "delay":
            await asyncio.sleep(fault["seconds"])
        if answer := refusal(fault, authorization[1] if authorization else ""):
            writer.write(answer)
            await writer.drain()
            return int(answer.split(b" ", 2)[1])
        speed = fault["bytes_per_second"] if fault.get("kind") == "slow" and "/blobs/" in path else 0
        return await self._hand_on(head, reader, writer, speed)

    async def _hand_on(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, speed: int) -> int:
        from_backend, to_backend = await asyncio.open_connection(*self.backend)
        to_backend.write(_closing(head))
        upload = asyncio.create_task(_copy(reader, to_backend))
        try:
            while True:  # an interim answer (100 Continue) comes before the real one
                answer = (await from_backend.readuntil(b"\r\n\r\n")).decode("latin-1")
                status = int(answer.split(" ", 2)[1])
                writer.write(_closing(answer) if status >= 200 else answer.encode("latin-1"))
                if status >= 200:
                    break
            await _copy(from_backend, writer, speed)
        finally:
            upload.cancel()
            to_backend.close()
        return status


def _closing(head: str) -> bytes:
    """The head of a request or an answer, saying that the connection ends after it."""
    kept = re.sub(r"(?im)^connection:.*\r\n", "", head)
    return (kept[:-2] + "Connection: close\r\n\r\n").encode("latin-1")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, speed: int = 0) -> None:
    block = min(BLOCK, max(1, speed // 10)) if speed else BLOCK
    while data := await reader.read(block):
        writer.write(data)
        await writer.drain()
        if speed:
            await asyncio.sleep(len(data) / speed)


def serve_names(address: str, names: Mapping[str, str]) -> None:
    """Answer DNS questions (RFC 1035, over UDP) at port 53 of this address for as long as the loop runs."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.setblocking(False)
    server.bind((address, 53))

    def answer() -> None:
        query, client = server.recvfrom(512)
        if text := answer_name(query, names):
            server.sendto(text, client)

    asyncio.get_running_loop().add_reader(server, answer)


def answer_name(query: bytes, names: Mapping[str, str]) -> bytes:
    """The answer to a DNS query; b"" to stay silent."""
    labels = []
    end = 12
    while end < len(query) and query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode("latin-1").lower())
        end += 1 + query[end]
    question = query[12 : end + 5]
    name = ".".join(labels)
    if len(question) < 5 or name == "hang.test" or name.endswith(".hang.test"):
        return b""
    wants_ipv4 = question[-4:] == b"\0\1\0\1"
    address = names.get(name)
    # Flags: an answer, authoritative, recursion as asked and available; response code 3 is "no such name".
    flags = 0x8580 | (0 if address else 3)
    record = b""
    if address and wants_ipv4:
        record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 5, 4) + socket.inet_aton(address)
    return query[:2] + struct.pack(">HHHHH", flags, 1, bool(record), 0, 0) + question + record


async def main(path: str) -> None:
    """Serve until the process is ended."""
    config = json.loads(pathlib.Path(path).read_text())
    host, _, port = config["listen"].rpartition(":")
    server = await asyncio.start_server(Front(config).serve, host, int(port), reuse_address=True)
    for address in config["name_servers"]:
        serve_names(address, config["names"])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
