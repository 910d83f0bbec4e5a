"""A small HTTP/1.1 client that keeps visible what goes over the wire: reason, case of headers, chunks, how it ends."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

#: Seconds that an answer may take.
READ_TIMEOUT = 120.0
#: Seconds after an answer within which a server that means to close the connection has done so.
CLOSING = 0.15

Message = dict[str, Any]


class TimedOut(Exception):
    """Nothing came for as long as was waited."""


class Wire:
    """One connection."""

    def __init__(self, address: tuple[str, int], timeout: float = READ_TIMEOUT) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(timeout)
        self._read = b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def send(self, data: bytes) -> None:
        """Sends what the server takes: one that answers early and closes can still be heard."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def _fill(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise TimedOut from None
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        self._read += data
        return bool(data)

    def _until(self, separator: bytes) -> bytes | None:
        while separator not in self._read:
            if not self._fill():
                return None
        return self.exactly(self._read.index(separator) + len(separator))

    def exactly(self, count: int) -> bytes:
        """So many bytes; fewer where the connection ends before."""
        while len(self._read) < count and self._fill():
            pass
        found, self._read = self._read[:count], self._read[count:]
        return found

    def read_head(self) -> Message | None:
        """Status line and headers; None where the connection ends."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, *reason = first.split(" ", 2)
        headers = [[name, value.strip()] for name, _, value in (line.partition(":") for line in lines)]
        return {"version": version, "status": int(status), "reason": reason[0] if reason else None, "headers": headers}

    def read_response(self, method: str = "GET") -> Message:
        """A whole answer; `raw` is its body."""
        interim: list[int] = []
        while (answer := self.read_head()) is not None and 100 <= answer["status"] < 200:
            interim.append(answer["status"])
        if answer is None:
            return {"status": None, "closed_without_response": True, "interim": interim}
        headers = {name.lower(): value for name, value in answer["headers"]}
        if method == "HEAD" or answer["status"] in (204, 304):
            answer["raw"] = b""
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            chunks = self._read_chunks(answer)
            answer["raw"] = b"".join(chunks)
            answer["chunks"] = [chunk.decode("utf-8", "replace") for chunk in chunks]
        elif "content-length" in headers:
            answer["raw"] = self.exactly(int(headers["content-length"]))
            if len(answer["raw"]) < int(headers["content-length"]):
                answer["truncated"] = True
        else:
            while self._fill():
                pass
            answer["raw"], self._read = self._read, b""
        if interim:
            answer["interim"] = interim
        return answer

    def _read_chunks(self, answer: Message) -> list[bytes]:
        chunks: list[bytes] = []
        while (line := self._until(b"\r\n")) is not None:
            if not (size := int(line.split(b";")[0], 16)):
                self._until(b"\r\n")
                return chunks
            chunks.append(self.exactly(size))
            self.exactly(2)
        answer["truncated"] = True
        return chunks

    def closed_by_server(self, seconds: float = CLOSING) -> bool:
        """Whether the server closes the connection within so many seconds after its answer."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
