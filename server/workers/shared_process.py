"""Worker processes that several models share: `Groups`, `SharedProcess` and a worker's `Place` in one.

Models with the same `worker_group` live in one process for each number of an instance: the first instances of all of them in
one, the second ones in another. A model with two instances so keeps what it asked for, two processes. In the process each worker
has a thread of its own (`worker.shared`), its own socket and its own memory, so that the server's side of it is that of any
worker (`worker_process.WorkerProcess`) with another `Life`.

    control socket    server -> process, a packet for each worker that is to live there: `Join`, with its three descriptors
    worker's socket   as any worker's; before it closes it the worker says that it ends by itself: `Left`
    board             which workers are at work, so that it is known whose fault the process' end was
    trace             what Python's faulthandler wrote about the thread in which the process crashed

What ends a process ends all its workers. Those who caused it start again after a pause that grows, the others at once. The file
is long since a process and the places in it are one life.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import msgspec

from ...core.errors import Draining, JitneyError
from ...core.model_config import ModelConfig
from ...core.request import Instance
from ..ipc.board import PLACES, Board
from ..process import cores
from ..process.alarms import Alarms
from ..process.environment import module_command
from .messages import Join
from .own_process import LoggedProcess, environment, is_crash
from .roster import OVERSLEPT_S

log = logging.getLogger(__name__)

#: Seconds that a worker may take to leave once it was told to, and nobody waits for it: while it loads, say.
LEAVE_S = 30.0
#: The same where its model's or the server's time to drain is over.
HURRY_S = 2.0

#: Seconds that a process may take to hear of a worker, where hundreds wait to be let in.
SEND_S = 10.0

_CRASHED_IN = re.compile(rb"Current thread 0x([0-9a-f]+)")
_ENCODER = msgspec.msgpack.Encoder()


class Key(NamedTuple):
    """Workers with the same key live in one process: its name, and what their models say of its environment, are the same."""

    name: str
    environment: tuple[tuple[str, str], ...]
    withheld: str


class Groups:
    """The shared processes of one server. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: dict[Key, SharedProcess] = {}

    def join(self, config: ModelConfig, instance: Instance, fds: tuple[int, ...], alarms: Alarms) -> Place:
        """A place in the process that the instance is to share, which is started where there is none. Called by the starter.

        OSError where the process cannot be started.
        """
        key = Key(instance.shared, tuple(sorted(config.environment.items())), config.withheld_environment)
        env = environment(config, replace(instance, threads=cores.wanted_threads() or 1))
        while True:
            with self._lock:
                process = self._processes.get(key)
                if process is None or process.is_ending:
                    process = SharedProcess(key, env, alarms, self._forget)
                    self._processes[key] = process
                place = process.take(config.name)
            try:
                process.send(Join(place.number, instance.name), fds)
                return place
            except OSError:  # it is ending, and nobody has noticed yet
                process.is_ending = True
                if process.leave(place):
                    process.bury_all(HURRY_S)

    def _forget(self, process: SharedProcess) -> bool:
        """The process has no worker any more; false where one has come meanwhile, or somebody else sees to its end."""
        with self._lock:
            if process.places or process.is_empty:
                return False
            process.is_empty = process.is_ending = True
            if self._processes.get(process.key) is process:
                del self._processes[process.key]
            return True


class SharedProcess(LoggedProcess):
    """One process. It ends with its last worker, or takes all of them with it. Thread-safe."""

    def __init__(self, key: Key, env: dict[str, str], alarms: Alarms, on_empty: Callable[[SharedProcess], bool]) -> None:
        self.key, self.alarms = key, alarms
        self.is_ending = self.is_empty = False
        self.places: dict[int, Place] = {}
        self._on_empty = on_empty
        self._lock = threading.Lock()
        self._blamed: set[int] = set()  # places whose worker the process was killed for
        self._culprits: dict[int, str] | None = None
        self._begun = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(SEND_S)
        self._board = Board.create()
        self._trace = os.memfd_create("jitney-trace", os.MFD_CLOEXEC)
        fds = (theirs.fileno(), self._board.region.fd, self._trace)
        module = f"{(__package__ or '').rpartition('.')[0]}.worker.shared"
        options = [f"--{name}={fd}" for name, fd in zip(("control-fd", "board-fd", "trace-fd"), fds, strict=True)]
        arguments = [*module_command(None, module), "--name", key.name, *options, f"--parent={os.getpid()}"]
        try:
            super().__init__(arguments, env, fds, f"worker_group.{key.name}", key.name)
        except BaseException:
            self._let_go()
            raise
        finally:
            theirs.close()
        self._board.region.close_fd()

    def send(self, message: Join, fds: tuple[int, ...]) -> None:
        """OSError where the process has ended, or takes no one in."""
        socket.send_fds(self._control, [_ENCODER.encode(message)], list(fds))

    def begin(self) -> None:
        """Begins to log, once."""
        with self._lock:
            if not self._begun:
                super().begin()
                self._begun = True

    # ---- places

    def take(self, model: str) -> Place:
        """A place for a worker of this model. OSError where there is none left."""
        with self._lock:
            number = next((n for n in range(PLACES) if n not in self.places), None)
            if number is None:
                raise OSError(f"worker_group process '{self.key.name}' has {PLACES} workers already, which is the most")
            self._board.clear(number)
            place = self.places[number] = Place(self, number, model)
            return place

    def leave(self, place: Place) -> bool:
        """The place is free again. Whether the process has no worker any more and ends: then it is the caller's to bury."""
        with self._lock:
            self.places.pop(place.number, None)
        if self.places or not self._on_empty(self):
            return False
        self._control.close()  # by which it knows, if it has not ended
        return True

    def bury_all(self, patience: float) -> None:
        """After the last worker: waits until the process has ended, kills it where it does not, and lets everything go."""
        if not self.wait(patience):
            self.end()
            self.wait(threading.TIMEOUT_MAX)
        if self._begun:
            self.bury()
        else:
            self.abandon()
        self._let_go()

    def _let_go(self) -> None:
        self._control.close()
        self._board.close()
        os.close(self._trace)

    # ---- whose fault it was

    def end_for(self, place: Place) -> None:
        """Kills the process because of what this worker does not do. One that waits for another's load is not to blame."""
        with self._lock:
            if not self._blamed:
                working = self._board.working(self.places)
                self._blamed = {place.number} if place.number in working or not working else working
        self.is_ending = True
        self.end()

    def culprits(self) -> dict[int, str]:
        """After its end: the places of the workers that may have caused it, and their models; empty where nobody knows."""
        with self._lock:
            if self._culprits is None:  # the first one that asks has not left yet, nor have the others
                found = self._blamed or self._crashed_in() or self._board.working(self.places)
                self._culprits = {number: place.model for number, place in self.places.items() if number in found}
            return self._culprits

    def _crashed_in(self) -> set[int]:
        found = _CRASHED_IN.search(os.pread(self._trace, 1 << 20, 0))
        return self._board.of_thread(int(found[1], 16), self.places) if found else set()


class Place:
    """One worker's life in a shared process; see `own_process.Life`."""

    def __init__(self, process: SharedProcess, number: int, model: str) -> None:
        self.process, self.number, self.model = process, number, model
        self.hang_up: Callable[[], None] = lambda: None  # tells the worker that nobody listens any more
        self._left: int | None = None
        self._hung_up = self._over = False
        self._patience = self._until = 0.0  # seconds that it may take to leave, and when they are over
        self._verdict: tuple[bool, bool, str] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def sharers(self) -> int:
        return max(1, len(self.process.places))

    @property
    def code(self) -> int | None:
        return self.process.code if self._left is None else self._left

    @property
    def crashed(self) -> bool:
        """Where several were at work, none of them is known to have crashed it."""
        if self._left is not None:
            return is_crash(self._left)
        return is_crash(self.process.code) and self._judged()[0]

    @property
    def innocent(self) -> bool:
        return self._left is None and self.process.code is not None and self._judged()[1]

    def begin(self) -> None:
        self.process.begin()

    def left(self, code: int) -> None:
        self._left = code

    def kill(self, cause: JitneyError | None) -> None:
        """A worker that is merely not wanted any more is told so, and ends when its model returns; where that takes too long,
        and where it hangs, the process goes, since a thread cannot be ended."""
        if self._over or self._left is not None:
            return
        if (cause is None or isinstance(cause, Draining)) and not self._hung_up:
            self._hung_up = True
            self.hang_up()
            self._patience = LEAVE_S if cause is None else HURRY_S
            self._until = time.monotonic() + self._patience
            self.process.alarms.set(self._ring, self._until)
            return
        self._end()

    def _ring(self) -> float | None:
        """Its time is over, unless nobody looked in time: it may have left, or had no time either."""
        now = time.monotonic()
        if now > self._until + OVERSLEPT_S:
            self._until = now + self._patience
            return self._until
        self._end()
        return None

    def _end(self) -> None:
        if not self._over and self._left is None:
            log.warning("worker_group process '%s' is ended because of model '%s'", self.process.key.name, self.model)
            self.process.end_for(self)

    def wait(self, timeout: float) -> bool:
        return self._left is not None or self.process.wait(timeout)

    def last_words(self) -> str:
        return "" if self._left is not None else self.process.last_words()

    def blame(self) -> str:
        """Why an innocent worker ended, "" for any other."""
        return self._judged()[2] if self.innocent else ""

    def _judged(self) -> tuple[bool, bool, str]:
        """Whether this worker is the only one that may have ended the process, whether it is none of them, and in words."""
        if self._verdict is None:
            culprits = self.process.culprits()
            text = f" because of {' or '.join(sorted(set(culprits.values())))}, of the same worker_group"
            self._verdict = set(culprits) == {self.number}, bool(culprits) and self.number not in culprits, text
        return self._verdict

    def bury(self, timeout: float | None = None) -> None:
        """With a timeout: what it printed when the process ended. Without: leaves the process."""
        if timeout is not None:
            if self._left is None:
                self.process.bury(timeout)
                self._judged()
            return
        self._over = True
        self.process.alarms.forget(self._ring)
        if self.process.leave(self):
            self.process.bury_all(HURRY_S)

    def abandon(self) -> None:
        self._left = 0
        self.bury()
