"""The TCP connections of this process' gRPC servers, as the kernel knows them: grpcio tells neither of them nor lets one go.

grpcio can say GOAWAY only by beginning its shutdown, and from then on it ends every call that it has not handed over yet, also
those that clients send before they have read the GOAWAY, as CANCELLED (https://github.com/grpc/grpc/issues/41785). So this module
says it in grpcio's place, while grpcio goes on answering: HTTP/2's first step of a graceful end (RFC 9113, 6.8), a GOAWAY frame
that names the highest stream there can be. The client opens no new stream on this connection, and closes it after its last
answer. No name of grpcio's inside is used, but what is not its own business either: that it speaks HTTP/2 on TCP sockets.

The frame has to stand between two that grpcio writes. It does where grpcio is writing nothing (no call of the connection is
`answering`), and the kernel has nothing left to send, so that whatever grpcio writes meanwhile, a few bytes, is taken at one go.
A connection on which this does not hold now is told a moment later. One of TLS cannot be told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Collection, Iterator
from pathlib import Path

from .open_calls import Peer, peer_of

#: Length, type, flags, stream 0; the highest stream, NO_ERROR.
GOAWAY = b"\0\0\x08\x07\0" + struct.pack(">III", 0, 2**31 - 1, 0)
_DESCRIPTORS = Path("/proc/self/fd")
#: Where in the kernel's `struct tcp_info` what is wanted lies: connections that wait to be accepted (of a listening socket),
#: and bytes that the peer has acknowledged.
_WAITING, _ACKNOWLEDGED = (24, "I"), (120, "Q")
#: A server's first frame, its settings, has at least so many bytes. GOAWAY comes after it.
_SETTINGS_BYTES = 9


def stop_listening(ports: Collection[int]) -> bool:
    """Has the kernel refuse new connections to these ports; False, and nothing done, while some wait to be accepted."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(sock) for sock in _sockets(ports)]
        listening = [sock for sock in found if _listens(sock)]
        if any(_tcp_info(sock, *_WAITING) for sock in listening):
            return False
        for sock in listening:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
    return True


def established(ports: Collection[int]) -> Iterator[tuple[Peer, socket.socket]]:
    """The connections to these ports, each with a socket for it, which is the caller's until the next one is asked for."""
    for sock in _sockets(ports):
        with sock, contextlib.suppress(OSError):
            if not _listens(sock):
                yield peer_of(*sock.getpeername()[:2]), sock


def tell(sock: socket.socket) -> bool:
    """Says GOAWAY on a connection on which no call is answering; False where that cannot be done now."""
    try:
        unsent = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
        if unsent or _tcp_info(sock, *_ACKNOWLEDGED) < _SETTINGS_BYTES:
            return False
        return sock.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(GOAWAY)
    except OSError:
        return False


def cut(ports: Collection[int], peers: Collection[Peer]) -> int:
    """Ends the connections of these peers, with whatever is under way on them; how many there were."""
    ended = 0
    for peer, sock in established(ports):
        if peer in peers:
            sock.shutdown(socket.SHUT_RDWR)
            ended += 1
    return ended


def _sockets(ports: Collection[int]) -> Iterator[socket.socket]:
    """Copies of the descriptors of this process' TCP sockets on these ports; each has to be closed. None without /proc."""
    try:
        entries = list(_DESCRIPTORS.iterdir())
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            if not str(entry.readlink()).startswith("socket:"):
                continue
            sock = socket.socket(fileno=os.dup(int(entry.name)))
            if sock.family in {socket.AF_INET, socket.AF_INET6} and sock.getsockname()[1] in ports:
                yield sock
            else:
                sock.close()


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _tcp_info(sock: socket.socket, at: int, kind: str) -> int:
    """A field of `struct tcp_info`; 0 where the kernel does not tell it."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, at + struct.calcsize(kind))
    return int(struct.unpack_from(f"={kind}", data, at)[0]) if len(data) >= at + struct.calcsize(kind) else 0
