"""A front end: `python -m jitney.server.frontends.child.main`, started by `child.FrontChild` and by nobody else.

    main thread       builds the listener, waits until it is to end      blocks on the queue of drains
    reading thread    answers and news from the scheduler (`link`)       blocks on the socket
    writing thread    what the socket did not take at once (`outbox`)    sleeps
    listener          the same as with one front end: a loop, a pool of threads

It ends when it is told to drain, when the scheduler's end of the socket closes, and when the scheduler dies without a word.
SIGINT, SIGTERM and SIGHUP, which a terminal or a service manager sends to all processes at once, are left to the scheduler.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ....core import holding
from ....core.errors import JitneyError
from ...http.app import Services, Shared, build, listener_options
from ...http.engine.certificates import server_context
from ...http.engine.listener import Listener
from ...http.middleware.admission import Admission
from ...ipc.arena import Arena
from ...ipc.memory import Region
from ...process import exits, gc_tuning, threads
from ...worker.main import die_with, leave_signals_to_the_server
from ...workers.channel import BadFrame, FrameReader, PeerClosed
from ..messages import DOWNWARD, Hello, Ready
from ..send_queue import Outbox
from ..shared_counters import NBYTES, Counters
from .accepting_listener import AcceptingListener
from .relay import Doorway, is_served
from .remote_dataplane import RemoteDataPlane
from .remote_services import RemoteLog, RemoteMetrics, RemoteRegions, RemoteTokens, SharedPlaces
from .scheduler_client import Link

if TYPE_CHECKING:
    from ...http.middleware.tokens import Tokens
    from ...http.torchserve.management import Control
    from ...metrics import Metrics
    from ...serving.dataplane import DataPlane

#: How long the last words may take.
_LAST_S = 2.0
_FDS = ("fd", "door-fd", "request-fd", "reply-fd", "counters-fd", "listen-fd")


class FrontEnd:
    """The life of this process between the scheduler's first message and the exit code."""

    def __init__(self, sock: socket.socket, door: socket.socket, fds: dict[str, int]) -> None:
        reader = FrameReader(sock, 1)
        first, *rest = DOWNWARD.decode(reader.read_frame()[1])
        if not isinstance(first, Hello) or rest:
            raise BadFrame("the first message must be Hello")
        hello = self.hello = first
        self._door = door
        gc_tuning.return_large_memory()
        holding.limit(hello.settings)
        self._listening = socket.socket(fileno=fds["listen-fd"])
        self._drains: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.outbox = Outbox(sock, "front", lambda: _end(exits.PARENT_GONE))
        arena = Arena(hello.request_bytes, Region(fds["request-fd"], hello.request_bytes))
        replies = Region(fds["reply-fd"], hello.reply_bytes)
        self._counters = Counters(Region(fds["counters-fd"], NBYTES), hello.fronts)
        for region in (arena.region, replies, self._counters.region):
            region.close_fd()
        self._link = Link(sock, reader, self.outbox, arena, replies, self._drains.put, _lost)
        _send_log(self.outbox, hello)

    def serve(self) -> int:
        """Answers until told to end; returns the exit code."""
        with threads.needed("a front end"):
            self._link.start()
        listener = self._listener()
        listener.start()
        gc_tuning.spare_collector()
        self.outbox.put(Ready())
        listener.close(self._drains.get())
        self.outbox.close(_LAST_S)
        return exits.STOPPED

    def _listener(self) -> Listener:
        hello, link, counters = self.hello, self._link, self._counters
        settings, ports = hello.settings, hello.ports
        plane = cast("DataPlane", RemoteDataPlane(link, counters))  # all that the routes use which are served here
        keys = cast("Tokens", RemoteTokens(link, counters)) if hello.asks_keys else None
        metrics = cast("Metrics", RemoteMetrics(self.outbox))
        services = Services(plane, cast("Control", plane), metrics, settings, keys)
        admission = Admission(settings.http_threads, settings.max_waiting)
        admission.waiting = SharedPlaces(settings.max_waiting, counters, hello.index + 1)
        shared = Shared(RemoteRegions(link, counters, settings.allow_client_shm))
        app, plans = build(ports, services, admission, shared, is_served)
        doorway: Any = Doorway(app, self._door, settings.http_threads)
        address = settings.inference_address
        tls = server_context(settings, hello.pem) if address.tls else None
        return AcceptingListener(
            doorway, address, tls=tls, plans=plans, sock=self._listening, counters=counters,
            index=hello.index, **listener_options(ports, settings),
        )  # fmt: skip


def _send_log(outbox: Outbox, hello: Hello) -> None:
    """Has the scheduler write what is logged here."""
    handler = RemoteLog(outbox, hello.index)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    for name, level in hello.levels.items():
        logger = logging.getLogger(name)
        logger.disabled = level is None
        logger.setLevel(level or logging.NOTSET)


def _lost(why: str) -> None:
    if why:
        print(f"a front end cannot go on: {why}", file=sys.stderr, flush=True)  # noqa: T201 - nobody is left to log it
    _end(exits.PROTOCOL if why else exits.PARENT_GONE)


def _end(code: int) -> NoReturn:
    """Ends whatever the threads do, which `sys.exit` would wait for."""
    sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None, kind: type[FrontEnd] = FrontEnd) -> NoReturn:
    parser = argparse.ArgumentParser(description="A front end of jitney; the server starts it.")
    for name in (*_FDS, "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--name", required=True, help="for `ps`")
    options = vars(parser.parse_args(arguments))
    die_with(options["parent"])
    leave_signals_to_the_server()
    threading.current_thread().name = "main"
    fds = {name: options[name.replace("-", "_")] for name in _FDS}
    for fd in fds.values():
        os.set_inheritable(fd, False)
    try:
        code = kind(socket.socket(fileno=fds["fd"]), socket.socket(fileno=fds["door-fd"]), fds).serve()
    except (PeerClosed, ConnectionError):
        code = exits.PARENT_GONE
    except JitneyError as error:
        print(f"a front end cannot start: {error}", file=sys.stderr, flush=True)  # noqa: T201 - nobody is left to log it
        code = exits.CRASHED
    except BaseException:  # noqa: BLE001 - a defect: whoever started the server sees it
        traceback.print_exc()
        code = exits.CRASHED
    _end(code)


if __name__ == "__main__":
    main()
