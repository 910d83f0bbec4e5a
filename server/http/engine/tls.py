"""TLS in front of the waitress listener: a socket that speaks it, and the channel and server that use such sockets.

The TLS engine works on memory (`ssl.MemoryBIO`); bytes of the network are read and written by the socket below, which never
blocks. One lock for each connection: the loop's thread reads while a thread of the pool writes, and OpenSSL allows one at a time.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket as net
import ssl
import threading
from typing import Any

from .channel import LINGER_BYTES, Channel
from .server import HttpServer

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18
#: Plain bytes that become one write: at most so much ciphertext waits in this process.
WRITE_BYTES = 1 << 16
#: First byte of a TLS handshake record; anything else is some other protocol.
HANDSHAKE = 0x16
#: TorchServe's answer to plain HTTP on an https address.
_TEXT = b'{\n  "status": "This TorchServe instance only accepts HTTPS requests"\n}\n'
PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TEXT), _TEXT)
)


class PlainHttp(Exception):
    """The client does not speak TLS."""


class TlsSocket:
    """A connected, non-blocking socket that encrypts. `recv`, `send`, `shutdown` and `close` are a socket's; the rest is the
    socket below. Threads: any."""

    def __init__(self, sock: net.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._waiting = b""  # ciphertext that the network has not taken yet
        self._begun = self._plain = self._ready = self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, _size: int) -> bytes:
        """All plain bytes that one read of the network brings; b"" at the end. BlockingIOError where there are none yet.

        PlainHttp where the first bytes are no TLS (later ones come as they are); OSError where handshake or connection failed.
        """
        with self._lock:
            data = self._sock.recv(READ_BYTES)
            if self._plain:
                return data
            if data and not self._begun:
                self._begun, self._plain = True, data[0] != HANDSHAKE
                if self._plain:
                    raise PlainHttp
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
            try:
                plain = self._decrypt()
            finally:
                self._flush()  # the handshake's part, or the alert where it failed
            ended = self._ended or not data
        if not plain and not ended:
            raise BlockingIOError(errno.EAGAIN, "no whole record yet")
        return plain

    def _decrypt(self) -> bytes:
        plain = bytearray()
        try:
            if not self._ready:
                self._tls.do_handshake()
                self._ready = True
            while piece := self._tls.read(READ_BYTES):
                plain += piece
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        return bytes(plain)

    def send(self, data: bytes) -> int:
        """Encrypts and sends; how many plain bytes were taken. BlockingIOError where earlier ciphertext still waits."""
        with self._lock:
            if not self._flush():
                raise BlockingIOError(errno.EAGAIN, "the network takes nothing now")
            taken = self._tls.write(memoryview(data)[:WRITE_BYTES])
            self._flush()
        return taken

    def flush(self) -> bool:
        """Sends what waits; whether nothing waits any more."""
        with self._lock:
            return self._flush()

    def _flush(self) -> bool:
        self._waiting += self._outgoing.read()
        while self._waiting:
            try:
                sent = self._sock.send(self._waiting)
            except BlockingIOError:
                return False
            self._waiting = self._waiting[sent:]
        return True

    @property
    def waiting(self) -> bool:
        """Whether ciphertext waits for the network."""
        return bool(self._waiting)

    def refuse(self, answer: bytes) -> None:
        """Sends plain bytes, to a client that does not speak TLS."""
        with contextlib.suppress(OSError):
            self._sock.send(answer)

    def shutdown(self, how: int) -> None:
        self._say_goodbye()
        self._sock.shutdown(how)

    def close(self) -> None:
        self._say_goodbye()
        self._sock.close()

    def _say_goodbye(self) -> None:
        """Tells the client that the end is meant (close_notify); it need not answer."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._ready:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                self._flush()


class TlsChannel(Channel):
    """A connection whose socket encrypts: what was sent last must leave the TLS engine too before the connection ends."""

    socket: TlsSocket

    reads_plainly = False

    def __init__(self, server: Any, sock: net.socket, *arguments: Any, **named: Any) -> None:
        encrypted: Any = TlsSocket(sock, server.context)  # all of a socket that a channel uses
        super().__init__(server, encrypted, *arguments, **named)

    def handle_read(self) -> None:
        try:
            if self._linger_until:
                self._lingered += len(self.recv(READ_BYTES))
                self.will_close = self.will_close or self._lingered > LINGER_BYTES
            else:
                self._take(self.socket.recv(READ_BYTES))
        except BlockingIOError:
            pass  # less than a record, or the handshake goes on
        except PlainHttp:
            self.socket.refuse(PLAIN_HTTP_ANSWER)
            self._linger()
        except OSError as error:
            log.debug("a TLS connection failed: %s", error)
            self.handle_close()

    def writable(self) -> bool:
        return self.socket.waiting or bool(super().writable())

    def handle_write(self) -> None:
        """Ends the connection, where it is to end, in a round of its own: after the last bytes have left the engine."""
        try:
            if not self.socket.flush():
                return
        except OSError:
            self.handle_close()
            return
        ending = self.close_when_flushed and bool(self.total_outbufs_len)
        if ending:
            self.close_when_flushed = False
        super().handle_write()
        if ending:
            self.close_when_flushed = True


class TlsServer(HttpServer):
    """A listening socket whose connections are encrypted."""

    channel_class = TlsChannel
    tells = False  # nothing can be said before the handshake
    context: ssl.SSLContext
