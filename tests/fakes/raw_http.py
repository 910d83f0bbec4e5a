"""A client of bare sockets: sends bytes as they are and shows what came back, and whether the server closed."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from jitney.server.settings.addresses import Address


def connect(address: Address, timeout: float = 5.0) -> socket.socket:
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(address.path)
        return sock
    return socket.create_connection((address.host, address.port), timeout)


@dataclass
class Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Connection:
    """One connection; `read()` gives the next answer, `closed()` tells whether the server ended it."""

    def __init__(self, address: Address, timeout: float = 5.0) -> None:
        self.sock = connect(address, timeout)
        self.buffer = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self._fill():
                raise EOFError(self.buffer)
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self._fill():
                raise EOFError(self.buffer)
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def read(self, *, head_only: bool = False) -> Answer:
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        _, status, reason = first.split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        answer = Answer(int(status), reason, headers)
        if head_only or status in ("100", "204"):
            return answer
        if answer.header("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                answer.chunks.append(self._exactly(size))
                self._exactly(2)
            self._exactly(2)
            answer.body = b"".join(answer.chunks)
        else:
            answer.body = self._exactly(int(answer.header("content-length") or 0))
        return answer

    def closed(self, within: float = 5.0) -> bool:
        """Whether the server ends the connection within so many seconds, without sending more."""
        self.sock.settimeout(within)
        try:
            return not self._fill()
        except TimeoutError:
            return False


def ask(
    address: Address,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 5.0,
) -> Answer:
    """One request on a connection of its own."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    with Connection(address, timeout) as connection:
        connection.send("\r\n".join((*lines, "", "")).encode("latin-1") + (body or b""))
        return connection.read(head_only=method == "HEAD")
