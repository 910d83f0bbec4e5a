"""The bytes between a server and its worker: this module alone knows them.

     0        4      5                5 + length
    ┌────────┬──────┬────────────────┐
    │ length │ kind │ payload        │   length   uint32, little-endian: bytes of the payload
    └────────┴──────┴────────────────┘   kind     uint8: an index into `KINDS`
                                         payload  msgpack of that kind's message

A frame is at most `MAX_PAYLOAD` long: what is larger travels in shared memory. Both ends are this code, so a bad frame means
that a process writes where it should not; there is no way to go on after one.
"""

from __future__ import annotations

import socket
import struct
import threading

import msgspec

from .messages import Cancel, Event, Execute, HostCall, HostCancel, HostReply, Load, Loaded, Message, Results, Stop

MAX_PAYLOAD = 64 << 20
KINDS: tuple[type[Message], ...] = (Load, Loaded, Execute, Results, Cancel, HostCall, HostReply, HostCancel, Event, Stop)

_HEADER = struct.Struct("<IB")
_KIND_OF = {kind: number for number, kind in enumerate(KINDS)}
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in KINDS)
_BUFFER = 64 << 10


class PeerClosed(EOFError):
    """The other process closed its end, or ended."""


class BadFrame(ValueError):
    """What arrived is no frame of ours, or what should be sent does not fit one."""


class Channel:
    """Sends and receives messages over a connected stream socket.

    Any thread may `send` and `hold`; only one may `receive` at a time. Closing belongs to the owner of the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._out = bytearray()
        self._held = 0  # bytes at the start of _out that are to be sent with the next message
        self._in = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0  # unread bytes of _in

    def fileno(self) -> int:
        """The socket's descriptor, to wait on."""
        return self._socket.fileno()

    # ---- any thread

    def send(self, message: Message) -> None:
        """Sends one message with one system call where the socket takes it whole.

        BadFrame if it is too large, TypeError, ValueError or OverflowError if it cannot be encoded: then nothing was sent.
        OSError if the peer is gone or, where the socket has a send timeout, does not read.
        """
        with self._sending:
            self._append(message)
            self._held = 0
            self._socket.sendall(self._out)

    def hold(self, message: Message) -> None:
        """Keeps a message, to send it in front of the next one, which must be about to follow. Errors as `send`'s."""
        with self._sending:
            self._append(message)
            self._held = len(self._out)

    def _append(self, message: Message) -> None:
        """Writes a frame behind those that are held."""
        start = self._held + _HEADER.size
        self._encoder.encode_into(message, self._out, start)
        length = len(self._out) - start
        if length > MAX_PAYLOAD:
            self._out = self._out[: self._held]
            raise BadFrame(f"{type(message).__name__} of {length} bytes is over the limit of {MAX_PAYLOAD}")
        _HEADER.pack_into(self._out, self._held, length, _KIND_OF[type(message)])

    # ---- the thread that receives

    def receive(self) -> Message:
        """Waits for the next message. PeerClosed at the end, BadFrame where the bytes make no sense."""
        self._buffer(_HEADER.size)
        length, kind = _HEADER.unpack_from(self._in, self._start)
        if kind >= len(KINDS):
            raise BadFrame(f"unknown kind of frame {kind}, expected one below {len(KINDS)}")
        if length > MAX_PAYLOAD:
            raise BadFrame(f"frame of {length} bytes is over the limit of {MAX_PAYLOAD}")
        self._start += _HEADER.size
        try:
            message: Message = _DECODERS[kind].decode(self._payload(length))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadFrame(f"{KINDS[kind].__name__} cannot be understood: {error}") from None
        return message

    def take(self) -> Message | None:
        """The next message where it is here as a whole, after reading what has come without waiting; else None."""
        if self.is_here:
            return self.receive()
        if not self._make_room():
            return None
        try:
            count = self._socket.recv_into(self._in[self._end :], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise PeerClosed(str(error)) from None
        if not count:
            raise PeerClosed("closed")
        self._end += count
        return self.receive() if self.is_here else None

    @property
    def is_long(self) -> bool:
        """Whether the next message, as far as it is known, is too long for `take`."""
        return self._next_size() > _BUFFER

    def _next_size(self) -> int:
        if self._end - self._start < _HEADER.size:
            return _HEADER.size
        length, kind = _HEADER.unpack_from(self._in, self._start)
        broken = kind >= len(KINDS) or length > MAX_PAYLOAD
        return _HEADER.size if broken else _HEADER.size + int(length)

    @property
    def is_here(self) -> bool:
        """Whether the next message has been read already: no input will tell of it."""
        have = self._end - self._start
        return have >= _HEADER.size and have >= self._next_size()

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
            self._end += self._read(self._in[self._end :], partial=have > 0 or wanted != _HEADER.size)

    def _read(self, target: memoryview, partial: bool) -> int:
        try:
            count = self._socket.recv_into(target)
        except ConnectionError as error:
            raise PeerClosed(str(error)) from None
        if not count:
            raise PeerClosed("closed in the middle of a frame" if partial else "closed")
        return count
