"""granian (hyper, in Rust) in front of the same applications: `http_server=granian`, extra `jitney[fast]`.

    GranianListener(app, address, name=…, …)    the verbs and arguments of `listeners.Listener`

Each request is a coroutine on the event loop of the listener's one thread: it waits there for its body and for its model. Quick
requests run in that thread, the others in the pool. What differs from the other front lies in what hyper lets through:

    header names come in lower case, and are shown to handlers in title case; values that are not ASCII are dropped
    answers carry the standard reason phrase, header names in lower case, and a `server` header
    malformed HTTP is refused without a body; a bare LF ends a header line; `%zz` in a path stays as it is
    a body too large that was announced ends the connection
    a stream cannot be cut off: one that fails just ends; what its client does not read waits in memory
    connections are silent for IDLE_SECONDS at most; no TLS
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import affinity, reactor
from ..addresses import Address
from ..batching import gather
from ..errors import InvalidConfig
from .express import Express
from .front import Quick, Refuse
from .granian_trip import KnownHeads
from .granian_visit import Visit
from .listeners import MAX_HEADER_BYTES, open_socket
from .tasks import Dispatcher, Errand

log = logging.getLogger(__name__)

_MISSING = "http_server=granian needs granian: pip install jitney[fast]"
#: Seconds that a connection may be silent, between requests too.
IDLE_SECONDS = 60
#: A request that waits longer than this is watched for its client's end, which costs more than most requests take.
WATCH_AFTER_SECONDS = 0.1


class GranianListener:
    """One address that answers HTTP through a WSGI application; see `listeners.Listener`."""

    def __init__(
        self, app: Callable[..., Any], address: Address, *, name: str, threads: int, max_body: int, refuse: Refuse,
        setting: str = "", ports: Collection[str] = (), tls: ssl.SSLContext | None = None, quick: Quick | None = None,
        express: Express | None = None, sock: socket.socket | None = None,
    ) -> None:  # fmt: skip
        refuse_tls(address, setting or name)
        self.name, self.threads, self.ports = name, threads, frozenset(ports)
        self.app, self.max_body, self.refuse, self.quick = app, max_body, refuse, quick
        self.heads = KnownHeads(express)
        self.draining = False
        self.waiting: dict[Visit, float] = {}
        self.dispatcher = Dispatcher(name)
        self._requested = address
        self._owns_path = bool(address.path) and sock is None
        self._sock = sock or open_socket(address, setting or f"{name}_address")
        bound = self._sock.getsockname()
        self._address = address if address.path else replace(address, port=bound[1])
        self.environ = _environ(self._address)
        self._server = _make_server(self._visit, self._sock.fileno(), bool(address.path))
        self._posted: deque[Callable[[], None]] = deque()
        self._awake = self._sweeps = self._gathers = False
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"http-{name}", daemon=True)
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._visits: set[asyncio.Task[Any]] = set()
        self._watched: dict[int, Callable[[], None]] = {}
        self._watching = threading.Lock()
        self._ended = False

    @property
    def address(self) -> Address:
        """Where it listens; the port is the real one where 0 was asked for."""
        return self._address

    def start(self) -> None:
        """Begins to answer; returns at once."""
        self.dispatcher.set_thread_count(self.threads)
        self._thread.start()
        self._running.wait(10.0)
        if "inference" in self.ports:
            reactor.offer(self)

    def stop_accepting(self) -> None:
        """Refuses new connections and closes idle ones. Requests that were accepted are answered."""
        if not self.draining:
            self.draining = True
            self._sock.close()
            if self._thread.is_alive():
                self.post(self._server.stop)

    def close(self, timeout: float = 10.0) -> None:
        """Waits for at most `timeout` seconds until accepted requests are answered, then ends threads and sockets."""
        self.stop_accepting()
        reactor.withdraw(self)
        deadline = time.monotonic() + timeout
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                self.post(self._give_up)
                self._thread.join(5.0)
        elif not self.loop.is_closed():
            self.loop.close()
        self.dispatcher.shutdown(timeout=max(0.5, deadline - time.monotonic()))
        if self._owns_path:
            Path(self._requested.path).unlink(missing_ok=True)

    # -- any thread --------------------------------------------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Has `call` called in the loop's thread; one wake-up for all that is posted until the loop gets to it."""
        self._posted.append(call)
        if not self._awake:
            self._awake = True
            try:
                self.loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                pass  # the loop has ended: nobody waits

    def watch(self, fd: int, serve: Callable[[], bool], lost: Callable[[], None]) -> bool:
        """`reactor.Reactor.watch`."""
        with self._watching:
            if self._ended:
                return False
            self._watched[fd] = lost
        self.post(lambda: self._watch(fd, serve))
        return True

    # -- the loop's thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        affinity.share_core()
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.call_soon(self._running.set)
            self.loop.run_until_complete(self._server.serve())
        except Exception:
            log.exception("listener '%s' ended", self.name)
        finally:
            self._end_tasks()
            self.loop.close()

    def _watch(self, fd: int, serve: Callable[[], bool]) -> None:
        if fd in self._watched:
            self.loop.add_reader(fd, lambda: None if serve() else self._let_go(fd))

    def _let_go(self, fd: int) -> None:
        self.loop.remove_reader(fd)
        with self._watching:
            lost = self._watched.pop(fd)
        lost()

    def _end_tasks(self) -> None:
        with self._watching:
            self._ended = True
        for fd in list(self._watched):
            self._let_go(fd)
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def _give_up(self) -> None:
        """Ends the requests that are still under way; with them granian ends."""
        for task in self._visits:
            task.cancel()

    def _drain(self) -> None:
        self._awake = False
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    async def _visit(self, scope: Any, protocol: Any) -> None:
        task = asyncio.current_task()
        if scope.proto != "http" or task is None:
            return
        self._visits.add(task)
        try:
            await Visit(self, scope, protocol).serve()
        finally:
            self._visits.discard(task)

    def gather(self) -> None:
        """Lets requests that the loop has at hand now leave together."""
        if not self._gathers:
            self._gathers = True
            gather.begin()
            self.loop.call_soon(self._gathered)

    def _gathered(self) -> None:
        self._gathers = False
        gather.end()

    def wait_with(self, visit: Visit) -> None:
        """The visit waits for something that may take long: its client's end should be noticed."""
        self.waiting[visit] = time.monotonic()
        if not self._sweeps:
            self._sweeps = True
            self.loop.call_later(WATCH_AFTER_SECONDS, self._sweep)

    def _sweep(self) -> None:
        overdue = time.monotonic() - WATCH_AFTER_SECONDS
        for visit, since in list(self.waiting.items()):
            if since <= overdue:
                visit.watch()
        self._sweeps = bool(self.waiting)
        if self._sweeps:
            self.loop.call_later(WATCH_AFTER_SECONDS, self._sweep)

    async def in_pool(self, work: Callable[[], None]) -> None:
        """Runs `work`, which raises nothing, in a thread of the pool."""
        done: asyncio.Future[None] = self.loop.create_future()

        def run() -> None:
            work()
            self.post(lambda: None if done.done() else done.set_result(None))

        self.dispatcher.add_task(Errand(run))
        await done


def refuse_tls(address: Address, setting: str) -> None:
    """InvalidConfig where this server does not speak what the address asks for."""
    if address.tls:
        raise InvalidConfig(f"{setting}={address}: http_server=granian speaks no TLS, http_server=waitress does")


def require_granian() -> None:
    """InvalidConfig where granian is not installed."""
    if importlib.util.find_spec("granian") is None:
        raise InvalidConfig(_MISSING)


def _environ(address: Address) -> dict[str, Any]:
    """The part of WSGI's environ that all requests of a listener share."""
    return {
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": address.host or "localhost",
        "SERVER_PORT": str(address.port),
        "REMOTE_HOST": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def _make_server(visit: Callable[[Any, Any], Any], fd: int, is_unix: bool) -> Any:
    """An embedded granian on a socket that is open already, which is the one thing it has no public way for."""
    try:
        from granian import _granian
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.server.embed import Server
    except ImportError:
        raise InvalidConfig(_MISSING) from None

    class OpenServer(Server):
        def _init_shared_socket(self) -> None:
            holder: Any = _granian.SocketHolder
            self._shd: Any = holder(os.dup(fd), is_unix, 1024)

    logging.getLogger("_granian").setLevel(logging.ERROR)
    return OpenServer(
        visit,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000, max_buffer_size=4 * MAX_HEADER_BYTES),
        websockets=False,
        backlog=1024,
        backpressure=1 << 14,
        log_enabled=False,
    )
