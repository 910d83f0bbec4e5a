"""Listening sockets: addresses as config.properties writes them, and one waitress server with its own threads for each.

    Listener(app, address, name=…, setting=…)   opens the socket; AddressInUse or InvalidConfig names address and setting
    start()                                     begins to answer
    stop_accepting()                            refuses new connections, closes idle ones; accepted requests go on
    close(timeout)                              waits for accepted requests, then ends everything

A listener has a thread of its own for all socket I/O, and a pool of threads for the application, which start as
they are needed. Any front that has these four verbs may stand in its place.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Collection, Container
from dataclasses import replace
from pathlib import Path
from typing import Any

from waitress.adjustments import Adjustments

from ....core.errors import InvalidConfig
from ...ipc.io_context import IoContext
from ...process import threads
from ...settings.addresses import Address
from ..plan import PlanTable
from .channel import Refuse
from .loop import Loop
from .peers import Peers
from .server import HttpServer, UnixServer
from .task import TaskPool
from .tls import TlsServer

log = logging.getLogger(__name__)

#: Connections of one listener; each waits in the loop and costs no thread.
MAX_CONNECTIONS = 4096
#: How often the loop looks for connections that have been silent for too long.
CLEANUP_SECONDS = 5.0
#: How long `stop_accepting` waits for the loop, which has something else to do where it takes that long.
SOON_S = 5.0
MAX_HEADER_BYTES = 65536


class AddressInUse(InvalidConfig):
    """Another program listens on this address, or the address is not this machine's."""


def open_socket(address: Address, setting: str) -> socket.socket:
    """A bound socket, not listening yet; AddressInUse names address and setting where it cannot be had."""
    try:
        return _unix_socket(address.path) if address.path else _tcp_socket(address)
    except OSError as error:
        reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror or error}"
        raise AddressInUse(f"{setting}={address}: the address {reason}; choose another {setting}") from None


def _tcp_socket(address: Address) -> socket.socket:
    family, kind, proto, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(1024)  # some systems report an address in use only now
    except OSError:
        sock.close()
        raise
    return sock


def _unix_socket(path: str) -> socket.socket:
    """Binds a Unix socket, readable by this user only; a stale one in its place is removed, a live one is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).exists() and stat.S_ISSOCK(Path(path).stat().st_mode) and sock.connect_ex(path) == errno.ECONNREFUSED:
            Path(path).unlink()
        sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        Path(path).chmod(0o600)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """One address that answers HTTP through a WSGI application.

    threads   how many requests the application may have in hand at once
    max_body  bytes of the largest request body that is taken
    refuse    renders what never reaches the application: malformed HTTP, bodies too large
    setting   the key of config.properties that errors name;  ports: the APIs that it carries
    tls       what an https address speaks
    plans     answers the requests that have a plan, without the application; default none
    inline    paths of the application that the loop's thread serves itself, without a thread of the pool; default none
    sock      the listening socket where others listen on it too; default one of its own at `address`
    per_address  connections that one client address may have, 0 = any number
    io        the process' way to read for others, to which the loop offers itself if it carries inference; default none
    """

    def __init__(
        self, app: Callable[..., Any], address: Address, *, name: str, threads: int, max_body: int, refuse: Refuse,
        setting: str = "", ports: Collection[str] = (), tls: ssl.SSLContext | None = None, plans: PlanTable | None = None,
        inline: Container[str] = (), sock: socket.socket | None = None, per_address: int = 0, io: IoContext | None = None,
    ) -> None:  # fmt: skip
        if address.tls and tls is None:
            raise InvalidConfig(f"{setting or name}={address}: expected a TLS context")
        self.name, self.threads, self.ports = name, threads, frozenset(ports)
        self._requested = address
        self._owns_path = bool(address.path) and sock is None
        self._sock = sock or open_socket(address, setting or f"{name}_address")
        self._io = io or IoContext()
        self._loop = Loop(name, self._io.coalescer)
        self._dispatcher = TaskPool(name)
        self._server = _server(app, self._sock, self._loop, self._dispatcher, max_body, tls if address.tls else None)
        self._server.refuse, self._server.peers = refuse, Peers(per_address)
        self._server.plans, self._server.inline = plans, inline
        self._drained: threading.Event | None = None
        self._thread = threading.Thread(
            target=self._loop.run, args=(self._server, CLEANUP_SECONDS), name=f"http-{name}", daemon=True
        )

    @property
    def address(self) -> Address:
        """Where it listens; the port is the real one where 0 was asked for."""
        if self._requested.path:
            return self._requested
        return replace(self._requested, port=int(self._server.effective_port))

    def start(self) -> None:
        """Begins to answer; returns at once. TooFewThreads where the system has no thread left."""
        self._dispatcher.start(self.threads)
        self._server.accept_connections()
        self._loop.touch(self._server)
        threads.start(self._thread, f"listener '{self.name}'")
        if "inference" in self.ports:
            self._io.reactors.offer(self._loop)

    def stop_accepting(self) -> None:
        """Refuses new connections and closes idle ones. Requests that were accepted are answered."""
        if not self._server.draining and self._thread.is_alive():
            if self._drained is None:
                self._drained = self._on_loop(self._server.drain)
            self._drained.wait(SOON_S)

    def close(self, timeout: float = 10.0) -> None:
        """Waits for at most `timeout` seconds until accepted requests are answered, then ends threads and sockets."""
        self.stop_accepting()
        deadline = time.monotonic() + timeout
        if self._drained is not None and self._thread.is_alive():
            self._drained.wait(max(0.0, deadline - time.monotonic()))  # else nobody has looked who waits to be accepted
        while self._server.active_channels and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._io.reactors.withdraw(self._loop)
        if self._thread.is_alive():
            self._loop.stop()
            self._thread.join()
        self._server.close()
        self._sock.close()
        self._dispatcher.shutdown(timeout=max(0.5, deadline - time.monotonic()))
        self._loop.close()
        if self._owns_path:
            Path(self._requested.path).unlink(missing_ok=True)

    def _on_loop(self, call: Callable[[], None]) -> threading.Event:
        """Set when the loop has come to it."""
        done = threading.Event()

        def run() -> None:
            try:
                call()
            finally:
                done.set()

        self._loop.post(run)
        return done


def _server(
    app: Callable[..., Any], sock: socket.socket, loop: Loop, dispatcher: TaskPool, max_body: int,
    tls: ssl.SSLContext | None,
) -> HttpServer:  # fmt: skip
    """A waitress server on an open socket. Why these values: see the comments; waitress' defaults are for small pages."""
    adjustments = Adjustments(
        sockets=[sock],
        ident=None,
        url_scheme="https" if tls else "http",
        connection_limit=_connection_limit(),
        recv_bytes=262144,  # 5 MB bodies: 2.6 times as many as with 8 KiB
        outbuf_overflow=1 << 26,
        outbuf_high_watermark=1
        << 20,  # of a stream that its client does not read; with 16 MiB a crowd of them filled the memory
        channel_request_lookahead=1,  # go on reading while an answer is made: that is how a client's end is noticed
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=max_body + 1,  # waitress refuses from this size on
        backlog=1024,
        clear_untrusted_proxy_headers=False,  # no proxy header is believed, and handlers see what clients sent
    )
    kind = TlsServer if tls else UnixServer if sock.family == socket.AF_UNIX else HttpServer
    info = (sock.family, sock.type, sock.proto, sock.getsockname())
    server = kind(app, loop.sockets, False, sock, dispatcher=dispatcher, adj=adjustments, bind_socket=False, sockinfo=info)
    if isinstance(server, TlsServer) and tls:
        server.context = tls
    server.loop = loop
    return server


def _connection_limit() -> int:
    """Connections that the process' file descriptors allow; the soft limit is raised to the hard one where it is low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(MAX_CONNECTIONS, soft // 4))
