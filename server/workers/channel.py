"""The connection between a server and its worker: the messages of `messages`, each in a frame of its own.

A frame's kind is an index into `KINDS`. Front ends and the scheduler use the same frames (`frontends.messages`), of one kind that
holds several messages.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
from collections.abc import Callable

import msgspec

from ..ipc.frame import HEADER, MAX_PAYLOAD, BadFrame, FrameReader
from ..ipc.messages import Message
from .messages import (
    Cancel,
    Copied,
    Event,
    Execute,
    HostCall,
    HostCancel,
    HostReply,
    Left,
    Load,
    Loaded,
    Recall,
    Recalled,
    Rest,
    Results,
    Stop,
)

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
    Rest,
    Recall,
    Recalled,
)

_KIND_OF = {kind: number for number, kind in enumerate(KINDS)}
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in KINDS)
#: Called when a message has been sent after all, with true, or cannot be.
Then = Callable[[bool], None]
#: Bytes that are given to the socket at once of what it did not take before: the lock is held meanwhile.
_PIECE = 1 << 20


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
        OSError if the peer is gone.
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


class ServerChannel(MessageChannel):
    """The server's end, where the thread that sends may have others to serve than a worker that does not read just now.

    Any thread may call all of it, apart from what `receive`s.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._unsent = bytearray()
        self._then: list[Then] = []
        self._is_over = False

    def post(self, message: Message, then: Then | None = None) -> bool:
        """Sends one message as far as the socket takes it without waiting; false where the rest of it is left to `flush`.

        Then `sent` or `give_up` hands out `then`. Errors as `send`'s.
        """
        with self._sending:
            if self._is_over:
                raise ConnectionError("nothing more can be sent: the peer is gone")
            self._append(message)
            self._held = 0
            sent = 0 if self._unsent else self._give(self._out)
            if sent == len(self._out):
                return True
            self._unsent += memoryview(self._out)[sent:]
            if then is not None:
                self._then.append(then)
            return False

    def flush(self, timeout: float) -> None:
        """Waits until the socket has taken everything.

        BlockingIOError where it has taken nothing for `timeout` seconds, OSError if the peer is gone.
        """
        fd = self.fileno()
        if fd < 0:
            raise ConnectionError("the socket is closed: the peer is gone")
        writable = select.poll()
        writable.register(fd, select.POLLOUT)
        while self._give_some():
            if not writable.poll(timeout * 1000):
                raise BlockingIOError(errno.EAGAIN, "the peer does not read")

    def sent(self) -> list[Then] | None:
        """What was left to be called, each once; None where there is something to be flushed again."""
        with self._sending:
            if self._unsent:
                return None
            then, self._then = self._then, []
            return then

    def give_up(self) -> list[Then]:
        """What was left to be called; nothing is sent any more."""
        with self._sending:
            self._is_over = True
            then, self._then = self._then, []
            return then

    def _give_some(self) -> bool:
        """Whether something is left."""
        with self._sending:
            if self._unsent:
                with memoryview(self._unsent) as everything, everything[:_PIECE] as piece:
                    sent = self._give(piece)
                del self._unsent[:sent]
            return bool(self._unsent)

    def _give(self, data: bytearray | memoryview) -> int:
        """How many bytes the socket took."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0


def _message(kind: int, payload: bytes | bytearray) -> Message:
    try:
        message: Message = _DECODERS[kind].decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame(f"{KINDS[kind].__name__} cannot be understood: {error}") from None
    return message
