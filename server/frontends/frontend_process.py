"""`FrontendProcess`: one front end as the scheduler sees it: started, spoken to, read from, ended. Long, as it is one life."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import psutil

from ...core.errors import TooFewThreads
from ..ipc.arena import Arena
from ..ipc.frame import BadFrame, FrameReader, PeerClosed, has_input
from ..ipc.frame_reading import Reading
from ..ipc.memory import Region
from ..process import exits, threads
from ..process.environment import SECRETS, module_command
from ..process.threads import BLAS_THREADS
from ..settings.addresses import Address
from ..settings.settings import Settings
from ..tracing.sampling import Rule
from .heartbeat import Heartbeat
from .messages import UPWARD, Drain, Flush, Hello, Traces
from .peers import receive_peer
from .queries import SharedServices
from .send_queue import SendQueue
from .session import FrontendSession
from .shared_counters import GONE

log = logging.getLogger(__name__)

#: Virtual size of each front end's memory for requests and for answers; only pages that hold data in flight are real.
MEMORY_BYTES = 8 << 30
#: A process that closed its socket and does not end is killed after this.
_END_S = 2.0
#: grpcio would write a line to standard error for whatever its clients do wrong.
QUIET = {"GRPC_VERBOSITY": "NONE"}
_LOGGERS = ("jitney", "jitney.access")


class Relay(Protocol):
    """Who answers in the scheduler what its front ends relay, and owns the address that they answer: a listener's verbs."""

    @property
    def fd(self) -> int: ...  # of the socket that has the address
    @property
    def address(self) -> Address: ...
    @property
    def name(self) -> str: ...
    @property
    def ports(self) -> Collection[str]: ...
    def adopt(self, sock: socket.socket, peer: Any) -> None: ...
    def start(self) -> None: ...
    def stop_listening(self) -> None: ...
    def close(self, timeout: float) -> None: ...


@dataclass(frozen=True)
class FrontendSpec:
    """What all front ends of one kind have in common.

    kind    begins their names;  module: their main function;  first: the number of the first among all front ends
    fronts  how many of all kinds there are
    """

    settings: Settings
    shared: SharedServices
    relay: Relay
    pem: bytes = b""
    kind: str = "front"
    module: str = f"{__package__}.child.main"
    first: int = 0
    fronts: int = 1


class FrontendProcess:
    """A process, its socket, its memory, and the threads that read from it.

    `on_exit(process)` is called by the reading thread. The thread that makes a FrontendProcess must outlive it: the kernel kills
    the process with that thread. OSError where the process cannot be started; nothing is left of it then.
    """

    def __init__(
        self, spec: FrontendSpec, index: int, on_ready: Callable[[], None], on_exit: Callable[[FrontendProcess], None]
    ) -> None:
        self.index, self.name, self.started = index, f"{spec.kind}-{index - spec.first}", time.monotonic()
        self.ready = False
        self._heartbeat, self._heard, self._read_late = Heartbeat(), False, 0
        self._spec, self._on_ready, self._on_exit = spec, on_ready, on_exit
        self._flushes = itertools.count(1)
        self._flushed: dict[int, threading.Event] = {}
        self._greeting, self._greeted = threading.Lock(), False
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            self._requests = Region.create(f"jitney-{self.name}", MEMORY_BYTES)
            undo.callback(self._requests.close)
            self._replies = Arena(MEMORY_BYTES)
            undo.callback(self._replies.close)
            self._socket, their_socket = socket.socketpair()
            undo.callback(self._socket.close)
            theirs.callback(their_socket.close)
            self._door, their_door = socket.socketpair(type=socket.SOCK_SEQPACKET)
            undo.callback(self._door.close)
            theirs.callback(their_door.close)
            self._process = self._start(their_socket, their_door)
            undo.pop_all()
        self._requests.close_fd()
        self._replies.region.close_fd()
        self._reading = Reading(self._socket, FrameReader(self._socket, 1), self._take, spec.shared.io.reactors)
        self.send_queue = SendQueue(self._socket, self.name, self._give_up, spec.shared.io.coalescer)
        self.session = FrontendSession(
            spec.shared, self.send_queue, self._requests, self._replies, self._take_ready, self._take_flushed
        )
        self._threads = [
            threading.Thread(target=self._read, name=f"{self.name}-read", daemon=True),
            threading.Thread(target=self._adopt, name=f"{self.name}-relay", daemon=True),
        ]

    def _start(self, their_socket: socket.socket, their_door: socket.socket) -> subprocess.Popen[bytes]:
        counters = self._spec.shared.counters
        fds = {
            "fd": their_socket.fileno(),
            "door-fd": their_door.fileno(),
            "request-fd": self._requests.fd,
            "reply-fd": self._replies.region.fd,
            "counters-fd": counters.region.fd,
            "listen-fd": self._spec.relay.fd,
        }
        command = [*module_command(None, self._spec.module), f"--parent={os.getpid()}", f"--name={self.name}"]
        inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
        return subprocess.Popen(
            [*command, *(f"--{name}={fd}" for name, fd in fds.items())],
            env={BLAS_THREADS: "1", **QUIET, **inherited},
            pass_fds=list(fds.values()),
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output is the server's own
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- the thread that made it -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Starts the threads and tells the process what to do; where the system has no thread left, it is over at once."""
        reading, relaying = self._threads
        try:
            with threads.needed(f"front end {self.index}"):
                self.send_queue.start()
                relaying.start()
                reading.start()
        except TooFewThreads as error:
            log.error("%s", error)
            self.kill()
            self._finish()
            self._on_exit(self)
            return
        spec = self._spec
        hello = Hello(
            spec.settings,
            tuple(port for port in ("inference", "management", "metrics") if port in spec.relay.ports),
            self.index,
            MEMORY_BYTES,
            MEMORY_BYTES,
            {name: _level(name) for name in _LOGGERS},
            spec.pem,
            spec.shared.tokens is not None,
            spec.fronts,
        )
        with self._greeting:
            hello.traces = {model: sampler.rule for model, sampler in spec.shared.tracing.rules.items()}
            self.send_queue.put(hello)
            self._greeted = True

    def look(self) -> None:
        """Ends it where it stands still; to be called every `heartbeat.LOOK_S` seconds once it is ready."""
        if why := self._heartbeat.look(self.frozen, self._gives_a_sign()):
            log.error("front end %d is replaced: %s", self.index, why)
            self.kill()
        elif self._heartbeat.asks:
            self._heartbeat.asked(self.flush())

    def _gives_a_sign(self) -> bool:
        """Whether it has sent anything since the last look, or read what had to wait."""
        heard, self._heard = self._heard or has_input(self._socket), False
        read, self._read_late = self.send_queue.late != self._read_late, self.send_queue.late
        return heard or read

    @property
    def frozen(self) -> bool:
        """Whether a signal (SIGSTOP) has stopped it."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:  # it has ended
            return False

    # -- any thread --------------------------------------------------------------------------------------------------------

    def drain(self, seconds: float) -> None:
        """Has it stop accepting, answer what it accepted for at most so many seconds, and end."""
        self.send_queue.put(Drain(seconds))

    def trace(self, rules: dict[str, Rule]) -> None:
        """Tells it which requests are traced from now on; one that has not been told anything yet hears it then."""
        with self._greeting:
            if self._greeted:
                self.send_queue.put(Traces(rules))

    def flush(self) -> threading.Event:
        """Has it send what was counted; the event is set when that is here, or will never be."""
        number, event = next(self._flushes), threading.Event()
        self._flushed[number] = event
        if self.ready:
            self.send_queue.put(Flush(number))
        else:
            event.set()
        return event

    def _give_up(self) -> None:
        log.error("front end %d is replaced: it does not read what it is sent", self.index)
        self.kill()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def join(self, timeout: float) -> bool:
        """Waits for the end of the process and its threads; false where they are not over after so many seconds."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is None:
                continue  # the system had none left for it
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def ending(self) -> str:
        """How it ended."""
        code = self._process.returncode
        return "still running" if code is None else exits.describe(code)

    # -- its threads -------------------------------------------------------------------------------------------------------

    def _take_ready(self) -> None:
        self.ready = True
        self._on_ready()

    def _take_flushed(self, number: int) -> None:
        event = self._flushed.pop(number, None)
        if event is not None:
            event.set()

    def _take(self, payload: bytes | bytearray) -> None:
        self._heard = True
        self.session.take(UPWARD.decode(payload))

    def _read(self) -> None:
        try:
            self._reading.run()
        except PeerClosed:
            pass
        except (BadFrame, msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            log.error("front end %d sent something that is no message of ours: %s", self.index, error)
            self.kill()
        except Exception:
            log.exception("front end %d: its messages cannot be handled", self.index)
            self.kill()
        self._finish()
        self._on_exit(self)

    def _adopt(self) -> None:
        """Takes the connections that it relays requests on."""
        while True:
            try:
                sock, peer = receive_peer(self._door)
            except OSError:
                return
            if sock is None:
                return
            sock.setblocking(False)
            self._spec.relay.adopt(sock, peer)

    def _finish(self) -> None:
        self.session.close()
        self.send_queue.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._spec.shared.counters.set_waiting(self.index + 1, 0)
        self._spec.shared.counters.set_connections(self.index, GONE)
        for event in list(self._flushed.values()):
            event.set()
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        if self._threads[1].ident is not None:
            self._threads[1].join()
        for sock in (self._socket, self._door):
            sock.close()
        self._requests.close()
        self._replies.close()


def _level(name: str) -> int | None:
    logger = logging.getLogger(name)
    return None if logger.disabled else logger.getEffectiveLevel()
