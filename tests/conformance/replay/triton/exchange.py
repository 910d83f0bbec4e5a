"""Recorded requests, sent again, and the steps before and after them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import re
import socket
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .reply import Reply

Message = dict[str, Any]
FAILURES = (OSError, http.client.HTTPException)
SHARED_MEMORY = Path("/dev/shm")


def body_of(message: Message) -> bytes | None:
    if "body_b64" in message:
        return base64.b64decode(message["body_b64"])
    return message["body"].encode() if "body" in message else None


def _reply_of(response: http.client.HTTPResponse) -> Reply:
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def exchange(server: str, request: Message, timeout: float = 30) -> Reply:
    """Sends a recorded request on a connection of its own."""
    body = body_of(request)
    with contextlib.closing(http.client.HTTPConnection(server, timeout=timeout)) as connection:
        connection.putrequest(request["method"], request["path"], skip_accept_encoding=True)
        for name, value in request.get("headers", {}).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return _reply_of(connection.getresponse())


def exchange_raw(server: str, data: bytes, idle: float = 1.0) -> tuple[bytes, bool]:
    """Sends bytes; what came until the server closed the connection or was silent, and whether it closed it."""
    host, port = server.rsplit(":", 1)
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.settimeout(idle)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            return received, False
        except ConnectionError:
            pass
    return received, True


class _Stream(io.BytesIO):
    """Bytes from which several replies are read: the end of one does not close it."""

    def close(self) -> None:
        """The next reply follows."""


def split_raw(data: bytes) -> list[Reply]:
    """The replies in a stream of bytes; `100 Continue` is passed over."""
    stream, found = _Stream(data), list[Reply]()
    while stream.tell() < len(data):
        source: Any = SimpleNamespace(makefile=lambda *_: stream)
        response = http.client.HTTPResponse(source)
        try:
            response.begin()
            found.append(_reply_of(response))
        except http.client.HTTPException:
            return [*found, Reply(0, {}, data)]
    return found


def floats_of(step: Message) -> bytes:
    return struct.pack(f"<{len(step['floats'])}f", *step["floats"])


def take_step(server: str, step: Message, threads: list[threading.Thread]) -> None:
    """Does one step of setup or teardown; requests in the background go on in `threads`."""
    if "shm" in step:
        (SHARED_MEMORY / step["shm"]).write_bytes(floats_of(step).ljust(step["byte_size"], b"\0"))
    elif "background" in step:
        for _ in range(step["background"]):
            threads.append(threading.Thread(target=_exchange_quietly, args=(server, step)))
            threads[-1].start()
            time.sleep(step["gap_s"])
    else:
        status = exchange(server, step, 60).status
        if status >= 400 and not step.get("fails"):
            raise RuntimeError(f"{step['method']} {step['path']} before the case gave status {status}")
        if status < 400:
            _wait_for_model(server, step["path"])


def _exchange_quietly(server: str, request: Message) -> None:
    """For requests in the background, whose replies do not matter."""
    with contextlib.suppress(*FAILURES):
        exchange(server, request)


def _wait_for_model(server: str, path: str) -> None:
    """After a load or unload: until the model is ready, or is not."""
    asked = re.fullmatch(r"/v2/repository/models/([^/]+)/(load|unload)", path)
    for _ in range(100 if asked else 0):
        assert asked is not None
        ready = exchange(server, {"method": "GET", "path": f"/v2/models/{asked[1]}/ready"}).status == 200
        if ready == (asked[2] == "load"):
            return
        time.sleep(0.1)
