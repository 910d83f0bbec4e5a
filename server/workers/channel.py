"""The connection between a server and its worker: the messages of `messages`, each in a frame of its own.

A frame's kind is an index into `KINDS`. Front ends and the scheduler use the same frames (`frontends.messages`), of one kind that
holds several messages.
"""

from __future__ import annotations

import contextlib
import socket
import threading

import msgspec

from ..ipc.frame import HEADER, MAX_PAYLOAD, BadFrame, FrameReader
from ..ipc.messages import Message
from .messages import Cancel, Copied, Event, Execute, HostCall, HostCancel, HostReply, Left, Load, Loaded, Results, Stop

KINDS: tuple[type[Message], ...] = (
    Load,
    Loaded,
    Execute,
    Results,
    Cancel,
    HostCall,
    HostReply,
    HostCancel,
    Event,
    Stop,
    Copied,
    Left,
)

_KIND_OF = {kind: number for number, kind in enumerate(KINDS)}
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in KINDS)


class MessageChannel(FrameReader):
    """Sends and receives messages over a connected stream socket.

    Any thread may `send` and `hold`; only one may `receive` at a time. Closing belongs to the owner of the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, len(KINDS))
        self._sending = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._out = bytearray()
        self._held = 0  # bytes at the start of _out that are to be sent with the next message

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
        start = self._held + HEADER.size
        self._encoder.encode_into(message, self._out, start)
        length = len(self._out) - start
        if length > MAX_PAYLOAD:
            self._out = self._out[: self._held]
            raise BadFrame(f"{type(message).__name__} of {length} bytes is over the limit of {MAX_PAYLOAD}")
        HEADER.pack_into(self._out, self._held, length, _KIND_OF[type(message)])

    def stop_receiving(self) -> None:
        """From now on whoever receives, or will, meets the end."""
        with contextlib.suppress(OSError):  # the peer is gone, and with it the connection
            self._socket.shutdown(socket.SHUT_RD)

    # ---- the thread that receives

    def receive(self) -> Message:
        """Waits for the next message. PeerClosed at the end, BadFrame where the bytes make no sense."""
        return _message(*self.read_frame())

    def take(self) -> Message | None:
        """The next message where it is here as a whole, after reading what has come without waiting; else None."""
        frame = self.take_frame()
        return None if frame is None else _message(*frame)


def _message(kind: int, payload: bytes | bytearray) -> Message:
    try:
        message: Message = _DECODERS[kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame(f"{KINDS[kind].__name__} cannot be understood: {error}") from None
    return message
