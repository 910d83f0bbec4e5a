"""A front end: `python -m jitney.server.frontends.child.main`, started by `frontend_process.FrontendProcess` alone.

    main thread       builds the listener, waits until it is to end      blocks on the queue of drains
    reading thread    answers and news from the scheduler (`link`)       blocks on the socket
    writing thread    what the socket did not take at once (`send_queue`)    sleeps
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
from typing import Any, NoReturn

from ....core import holding
from ....core.errors import JitneyError
from ...http.app import InferenceServices, build_inference, listener_options
from ...http.engine.certificates import server_context
from ...http.engine.listener import Listener
from ...http.middleware.admission import Admission
from ...ipc.arena import Arena
from ...ipc.frame import BadFrame, FrameReader, PeerClosed
from ...ipc.io_context import IoContext
from ...ipc.memory import Region
from ...process import exits, gc_tuning, threads
from ...worker.main import die_with, leave_signals_to_the_server
from ..messages import DOWNWARD, Hello, Ready
from ..send_queue import SendQueue
from ..shared_counters import NBYTES, SharedCounters
from .accepting_listener import AcceptingListener
from .relay import Doorway, is_served
from .remote_dataplane import RemoteDataPlane
from .remote_services import RemoteLog, RemoteRegions, RemoteRequestMetrics, RemoteTokens, SharedPlaces
from .scheduler_client import SchedulerClient

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
        holding.limit(hello.settings.held_bytes)
        self._listening = socket.socket(fileno=fds["listen-fd"])
        self._drains: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._io = IoContext()
        self.send_queue = SendQueue(sock, "front", lambda: _end(exits.PARENT_GONE), self._io.coalescer)
        arena = Arena(hello.request_bytes, Region(fds["request-fd"], hello.request_bytes))
        replies = Region(fds["reply-fd"], hello.reply_bytes)
        self._counters = SharedCounters(Region(fds["counters-fd"], NBYTES), hello.fronts)
        for region in (arena.region, replies, self._counters.region):
            region.close_fd()
        self._link = SchedulerClient(sock, reader, self.send_queue, arena, replies, self._drains.put, _lost, self._io)
        self._link.tracing.apply(hello.traces)
        _send_log(self.send_queue, hello)

    def serve(self) -> int:
        """Answers until told to end; returns the exit code."""
        with threads.needed("a front end"):
            self._link.start()
        listener = self._listener()
        listener.start()
        gc_tuning.freeze_heap()
        self.send_queue.put(Ready())
        listener.close(self._drains.get())
        self.send_queue.close(_LAST_S)
        return exits.STOPPED

    def _listener(self) -> Listener:
        hello, link, counters = self.hello, self._link, self._counters
        settings, ports = hello.settings, hello.ports
        admission = Admission(settings.http_threads, settings.max_waiting, self._io.coalescer)
        admission.waiting = SharedPlaces(settings.max_waiting, counters, hello.index + 1, self._io.coalescer)
        services = InferenceServices(
            RemoteDataPlane(link, counters),
            RemoteRequestMetrics(self.send_queue),
            settings,
            RemoteTokens(link, counters) if hello.asks_keys else None,
            admission,
            RemoteRegions(link, counters, settings.allow_client_shm),
            link.tracing,
        )
        app, plans = build_inference(ports, services, is_served)
        doorway: Any = Doorway(app, self._door, settings.http_threads)
        address = settings.inference_address
        tls = server_context(settings, hello.pem) if address.tls else None
        return AcceptingListener(
            doorway, address, tls=tls, plans=plans, sock=self._listening, counters=counters,
            index=hello.index, io=self._io, per_address=settings.connections_per_address, **listener_options(ports, settings),
        )  # fmt: skip


def _send_log(send_queue: SendQueue, hello: Hello) -> None:
    """Has the scheduler write what is logged here."""
    handler = RemoteLog(send_queue, hello.index)
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
