"""The frames in which jitney's processes talk.

     0        4      5                5 + length
    ┌────────┬──────┬────────────────┐
    │ length │ kind │ payload        │   length   uint32, little-endian: bytes of the payload
    └────────┴──────┴────────────────┘   kind     uint8: which of its messages both sides mean
                                         payload  msgpack

A frame is at most `MAX_PAYLOAD` long: what is larger travels in shared memory. Both ends are this code, so a bad frame means
that a process writes where it should not; there is no way to go on after one.
"""

from __future__ import annotations

import select
import socket
import struct

MAX_PAYLOAD = 64 << 20

HEADER = struct.Struct("<IB")
_BUFFER = 64 << 10
#: Frames after which a loop that serves others too stops reading from a socket for now, if it holds no more: the process at the
#: other end may write without end.
TURN = 16
#: Bytes that `take_frame` reads at once, if no frame is longer, so that a reader of tiny ones does not hold thousands.
_LITTLE = 2 << 10


def has_input(sock: socket.socket, timeout: float = 0.0) -> bool:
    """Whether something has come that is not read yet, or comes within so many seconds, or the end; false for a socket that is
    closed here."""
    fd = sock.fileno()
    if fd < 0:
        return False
    unread = select.poll()
    unread.register(fd, select.POLLIN)
    return bool(unread.poll(timeout * 1000))


class PeerClosed(EOFError):
    """The other process closed its end, or ended."""


class BadFrame(ValueError):
    """What arrived is no frame of ours, or what should be sent does not fit one."""


class FrameReader:
    """Reads frames of so many kinds from a connected stream socket. For one thread at a time."""

    def __init__(self, sock: socket.socket, kinds: int) -> None:
        self._socket, self._kinds = sock, kinds
        self._in = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0  # unread bytes of _in

    def read_frame(self) -> tuple[int, bytes | bytearray]:
        """Waits for the next frame: its kind, and its payload in memory of its own.

        PeerClosed at the end, BadFrame where the bytes make no sense.
        """
        self._buffer(HEADER.size)
        length, kind = HEADER.unpack_from(self._in, self._start)
        if kind >= self._kinds:
            raise BadFrame(f"unknown kind of frame {kind}, expected one below {self._kinds}")
        if length > MAX_PAYLOAD:
            raise BadFrame(f"frame of {length} bytes is over the limit of {MAX_PAYLOAD}")
        self._start += HEADER.size
        return kind, self._payload(length)

    def take_frame(self) -> tuple[int, bytes | bytearray] | None:
        """The next frame where it is here as a whole, after reading what has come, a little of it, without waiting; else None.

        What was read along is held (`holds_frame`); there may be more in the socket.
        """
        for _ in range(2):  # the second time for the rest of a frame whose length is known then
            missing = self._next_size() - (self._end - self._start)
            if missing <= 0 or not self._make_room() or not self._read_now(max(missing, _LITTLE)):
                break
        return self.read_frame() if self.holds_frame else None

    @property
    def is_long(self) -> bool:
        """Whether the next frame, as far as it is known, is too long for `take_frame`."""
        return self._next_size() > _BUFFER

    @property
    def holds_frame(self) -> bool:
        """Whether the next frame has been read from the socket as a whole."""
        have = self._end - self._start
        return have >= HEADER.size and have >= self._next_size()

    def _next_size(self) -> int:
        if self._end - self._start < HEADER.size:
            return HEADER.size
        length, kind = HEADER.unpack_from(self._in, self._start)
        broken = kind >= self._kinds or length > MAX_PAYLOAD
        return HEADER.size if broken else HEADER.size + int(length)

    def _make_room(self) -> bool:
        """Moves unread bytes to the front where the next message does not fit behind them; false where it never fits."""
        size, have = self._next_size(), self._end - self._start
        if size > _BUFFER:
            return False
        if not have:
            self._start = self._end = 0
        elif self._start + size > _BUFFER:
            self._in[:have] = bytes(self._in[self._start : self._end])
            self._start, self._end = 0, have
        return True

    def _payload(self, length: int) -> bytes | bytearray:
        """The next `length` bytes, in memory of their own: decoded messages may refer to it."""
        if length <= _BUFFER:
            self._buffer(length)
            self._start += length
            return bytes(self._in[self._start - length : self._start])
        payload = bytearray(length)
        with memoryview(payload) as target:
            at = self._end - self._start
            target[:at] = self._in[self._start : self._end]
            self._start = self._end = 0
            while at < length:
                at += self._read(target[at:], partial=True)
        return payload

    def _buffer(self, wanted: int) -> None:
        """Reads until `wanted` unread bytes (no more than the buffer's size) are there."""
        while (have := self._end - self._start) < wanted:
            if not have:
                self._start = self._end = 0
            elif self._start + wanted > _BUFFER:
                self._in[:have] = bytes(self._in[self._start : self._end])
                self._start, self._end = 0, have
            self._end += self._read(self._in[self._end :], partial=have > 0 or wanted != HEADER.size)

    def _read_now(self, wanted: int) -> bool:
        """Reads at most so many bytes behind those that are there; false where none have come."""
        try:
            count = self._socket.recv_into(self._in[self._end : self._end + wanted], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise PeerClosed(str(error)) from None
        if not count:
            raise PeerClosed("closed")
        self._end += count
        return True

    def _read(self, target: memoryview, partial: bool) -> int:
        try:
            count = self._socket.recv_into(target)
        except ConnectionError as error:
            raise PeerClosed(str(error)) from None
        if not count:
            raise PeerClosed("closed in the middle of a frame" if partial else "closed")
        return count
