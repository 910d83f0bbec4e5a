"""Request bodies as they arrive: by Content-Length, or in chunks. Bounded in memory and in work.

Both receivers append to one bytearray, so that a body can be handed on as a view without a copy (`BodyStream.getbuffer`).
They have the methods that waitress expects of a receiver. `error` is set where the framing is broken or a limit is passed;
nothing is consumed after that, since where the next request begins is unknown.

    chunked body:   size-in-hex [;extension] CRLF  data CRLF  …  0 CRLF  [trailer CRLF …]  CRLF
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from ....core import holding
from ....core.holding import COUNTED, Body

#: A chunk costs work however small it is; Triton allows as many.
MAX_CHUNKS = 65536
#: Bytes of a size line with its extensions, and of all trailers together.
MAX_LINE = 4096
MAX_TRAILER = 65536

_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class TooMuchHeld(Error):  # type: ignore[misc]
    """The server has no room for another body now."""

    code = 503
    reason = "Service Unavailable"


class BodyStream(io.RawIOBase):
    """A received body as `wsgi.input`. `getbuffer()` is the whole of it, without a copy."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._view = memoryview(body)
        self._at = 0

    def readable(self) -> bool:
        return True

    def getbuffer(self) -> memoryview:
        return self._view

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        taken = self._view[self._at : self._at + len(buffer)]
        buffer[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)

    def read(self, size: int | None = -1, /) -> bytes:
        end = len(self._view) if size is None or size < 0 else self._at + size
        taken = bytes(self._view[self._at : end])
        self._at += len(taken)
        return taken


class Receiver:
    """What both kinds share: the bytes so far."""

    def __init__(self) -> None:
        self.body = Body()
        self.completed = False
        self.error: Error | None = None

    def _add(self, data: bytes | memoryview) -> None:
        """More of the body is here: refuses the request where the server would hold too much with it, or cannot."""
        try:
            self.body += data
        except MemoryError:
            self.error = TooMuchHeld(str(holding.no_memory(len(self.body) + len(data))))
            self.close()
            return
        if len(self.body) > COUNTED and not self.body.grown():
            self.error = TooMuchHeld(str(holding.process.refusal()))

    def received(self, data: Any) -> int:
        """Takes what belongs to the body and returns how many bytes that was."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of the body; views of it keep it for as long as they are there."""
        self.body = Body()


class FixedReceiver(Receiver):
    """A body of a known number of bytes, which was checked against the limit before."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def received(self, data: bytes | memoryview) -> int:
        if not self.body and self.length > COUNTED and not holding.process.has_room(self.length):
            self.error = TooMuchHeld(str(holding.process.refusal()))
            return 0
        taken = min(self.length - len(self.body), len(data))
        self._add(data if taken == len(data) else memoryview(data)[:taken])
        self.completed = len(self.body) == self.length
        return taken


class ChunkedReceiver(Receiver):
    """A chunked body of at most `limit` bytes in at most MAX_CHUNKS chunks. Extensions and trailers are dropped."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._chunks = 0
        self._left = 0  # bytes of the current chunk that are still to come
        self._partial = b""  # of a line
        self._trailer = 0
        # A plain function: a bound method would refer to this object, and the body live on until a garbage collection.
        self._on_line: Callable[[ChunkedReceiver, bytes], None] = ChunkedReceiver._size_line

    def received(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.completed and self.error is None:
            at = self._chunk_data(data, at) if self._left else self._line(data, at)
        return at

    def _chunk_data(self, data: bytes, at: int) -> int:
        taken = min(self._left, len(data) - at)
        self._add(memoryview(data)[at : at + taken])
        self._left -= taken
        return at + taken

    def _line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1
        line = self._partial + data[at : end or len(data)]
        if len(line) > MAX_LINE:
            self.error = BadRequest(f"a line of the chunked body is longer than {MAX_LINE} bytes")
        elif not end:
            self._partial = line
            return len(data)
        elif not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            self.error = BadRequest("a line of the chunked body does not end with CR LF")
        else:
            self._partial = b""
            self._on_line(self, line[:-2])
        return end or len(data)

    def _size_line(self, line: bytes) -> None:
        size, _, _ = line.partition(b";")
        if not _SIZE.fullmatch(size.rstrip(b" \t")):
            self.error = BadRequest("a chunk's size is no hexadecimal number")
            return
        self._left = int(size, 16)
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self.error = RequestEntityTooLarge(f"the body has more than {MAX_CHUNKS} chunks")
        elif len(self.body) + self._left > self.limit:
            self.error = RequestEntityTooLarge(f"the body has more than {self.limit} bytes")
        self._on_line = ChunkedReceiver._end_of_chunk if self._left else ChunkedReceiver._trailer_line

    def _end_of_chunk(self, line: bytes) -> None:
        if line:
            self.error = BadRequest("a chunk is longer than its size says")
        self._on_line = ChunkedReceiver._size_line

    def _trailer_line(self, line: bytes) -> None:
        self._trailer += len(line)
        if self._trailer > MAX_TRAILER:
            self.error = BadRequest(f"the trailers have more than {MAX_TRAILER} bytes")
        self.completed = not line
