"""`WorkerProcess`: one worker process as the server sees it: started, spoken to, read from, killed, buried.

The file is long since all of it is about one socket, which the loop and helpers hand to each other.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable

import psutil

from ...core import holding
from ...core.errors import Draining, JitneyError, WorkerDied
from ...core.model_config import ModelConfig
from ...core.request import Instance
from ...core.tensor import Buffer
from ..ipc.arena import Arena
from ..ipc.frame import TURN, BadFrame, PeerClosed, has_input
from ..ipc.io_context import IoContext
from ..ipc.memory import Region
from ..ipc.messages import Data, Message
from ..ipc.reactor import Reactor
from ..process import exits
from .channel import ServerChannel, Then
from .messages import Copied, Execute, Left, Load, Loaded, Results
from .own_process import Life, OwnProcess
from .shared_process import Groups

log = logging.getLogger(__name__)

#: A worker that has loaded its model and takes nothing for this long (its buffer of some 200 KB is full) is lost.
_SEND_TIMEOUT_S = 10
#: A process that closed its socket and does not end is killed after this.
_END_S = 2.0
#: A worker is told at once when more bytes than this were copied out of its reply memory; else with its next batch.
_TELL = 16 << 20
#: Answers with more bytes in shared memory than this are copied by the reading thread, and not by the loop of all connections.
_LIGHT = 1 << 20


_SERIALS = itertools.count(1)


class WorkerProcess:
    """A process, its socket and its reply memory.

    No thread of its own reads what it says. A loop waits for that, which must not be stalled: the inference port's (the
    process' reactor), once the model has loaded, else `SharedThreads.loop`. The loop handles what is short; a helper thread
    handles what may take its time (the answer of a load, long frames, large answers, the end) and gives the socket back to
    the loop. So `on_message(child, message)` is called by one thread at a time, and after the last one `on_exit(child)` by a
    helper. `send` and `kill` may be called by any thread. The thread that makes a WorkerProcess must outlive the process
    (`SharedThreads.starter`). OSError where the process cannot be started; nothing is left of it then.
    """

    def __init__(
        self,
        config: ModelConfig,
        instance: Instance,
        arena: Arena,
        factory: str,
        on_message: Callable[[WorkerProcess, Message], None],
        on_exit: Callable[[WorkerProcess], None],
        io: IoContext,
        groups: Groups,
    ) -> None:
        self.name, self._model, self._io = instance.name, config.name, io
        self.started, self.serial = time.time(), next(_SERIALS)
        self.loaded, self.load_seconds = False, 0.0
        self.spared = -math.inf  # monotonic seconds when its limit was last extended because the server was late
        self.heard = -math.inf  # monotonic seconds when the server last answered a question of its model (`host_calls`)
        self.cause: JitneyError | None = None
        self.refusal: Loaded | None = None
        self._on_message, self._on_exit = on_message, on_exit
        self._reply = Region.create(f"jitney-reply-{self.name}"[:200], arena.capacity)
        self._copied = self._untold = (
            0  # messages whose answers were copied out; bytes that the worker does not know to be free
        )
        self._socket, theirs = socket.socketpair()
        try:
            fds = (theirs.fileno(), arena.region.fd, self._reply.fd)
            self._life = self._started(config, instance, fds, groups)
        except BaseException:
            self._socket.close()
            self._reply.close()
            raise
        finally:
            theirs.close()
        self._reply.close_fd()
        self._channel = ServerChannel(self._socket)
        self._flushing = threading.Lock()  # while a helper sends what the socket did not take, and after that has failed
        self._killing = threading.Lock()
        self._returns = False  # the loop gives the socket back because a helper has to go on
        self._left_over: Message | None = None  # of what it read
        self._failure: Exception | None = None
        self._hello = Load(config, instance, arena.capacity, self._reply.nbytes, factory)

    def _started(self, config: ModelConfig, instance: Instance, fds: tuple[int, ...], groups: Groups) -> Life:
        if not instance.shared:
            return OwnProcess(config, instance, fds)
        place = groups.join(config, instance, fds, self._io.threads.alarms)
        place.hang_up = self._hang_up
        return place

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    @property
    def pid(self) -> int:
        return self._life.pid

    @property
    def sharers(self) -> int:
        """How many workers live in its process."""
        return self._life.sharers

    # ---- the thread that made it

    def begin(self) -> None:
        """Has it read from and asks the process to load the model.

        RuntimeError where the system has no thread left; the process is gone then.
        """
        try:
            self._life.begin()
        except RuntimeError:
            self._life.abandon()
            self._close()
            raise
        self._listen()
        try:
            self.send(self._hello)
        except OSError:
            pass  # it ended already; the reader says so
        except (TypeError, ValueError, OverflowError) as error:
            self.kill(JitneyError(f"the configuration cannot be sent to a worker: {error}"))

    # ---- any thread

    def send(self, message: Message) -> None:
        """Returns at once: what the socket does not take, a helper sends. OSError if the process is gone."""
        if not self._channel.post(message):
            self._flush_later()

    def send_whole(self, message: Message) -> None:
        """Waits until the process has taken it, or can. Errors as `flush`'s."""
        if not self._channel.post(message):
            self.flush()

    def execute(self, message: Execute, then: Then) -> bool:
        """Sends a batch, and how much of the reply memory is free. OSError if the process is gone.

        False where the socket does not take it at once: a helper sends it, and calls `then(whether that was possible)`.
        """
        message.copied, self._untold = self._copied, 0
        whole = self._channel.post(message, then)
        if not whole:
            self._flush_later()
        return whole

    def flush(self) -> None:
        """Waits until the process has taken what was sent, or can. OSError if it is gone; one that has loaded its model and reads
        nothing is killed, and counts as gone."""
        while True:
            try:
                self._channel.flush(_SEND_TIMEOUT_S)
                return
            except BlockingIOError:
                if self.loaded:
                    self.kill(JitneyError(f"worker '{self.name}' took no message for {_SEND_TIMEOUT_S} s"))
                    raise

    def _flush_later(self) -> None:
        if self._flushing.acquire(blocking=False):
            self._io.threads.helpers.submit(self._flush)

    def _flush(self) -> None:
        """A helper, one at a time for each process."""
        try:
            self.flush()
        except OSError:
            self._tell(self._channel.give_up(), False)
            return
        self._flushing.release()
        sent = self._channel.sent()
        if sent is None:  # from somebody who saw that this was still going on
            self._flush_later()
        self._tell(sent or (), True)

    def _tell(self, those: Iterable[Then], sent: bool) -> None:
        for then in those:
            try:
                then(sent)
            except Exception:  # the others' batches wait to be told
                log.exception("worker '%s': what was to follow a batch failed", self.name)

    def kill(self, cause: JitneyError | None = None) -> None:
        """Ends the process at once, or where others live in it this worker if it lets itself be ended (`Place.kill`); `cause`
        is what its requests are told instead of a plain death."""
        with self._killing:
            self.cause = self.cause or cause
            self._life.kill(cause)

    @property
    def frozen(self) -> bool:
        """Whether a signal (SIGSTOP) has stopped it: it will neither answer nor end by itself."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:  # it has ended
            return False

    @property
    def is_heard(self) -> bool:
        """Whether all that it has said so far is read."""
        return not has_input(self._socket)

    @property
    def exit_code(self) -> int | None:
        """As a shell counts, 137 for SIGKILL; None while it runs."""
        code = self._life.code
        return None if code is None else exits.exit_code(code)

    @property
    def crashed(self) -> bool:
        """Whether it ended by itself, because of what it did."""
        return self.cause is None and self._life.crashed

    @property
    def innocent(self) -> bool:
        """Whether it ended because of what others did that shared its process."""
        return self._life.innocent

    def ending(self) -> str:
        """How it ended, with the last words on stderr where it was not killed."""
        code = self._life.code
        if code is None:
            return "still running"
        last = self._life.last_words() if code > 0 else ""
        return exits.describe(code) + self._life.blame() + (f": {last}" if last else "")

    def death(self) -> JitneyError:
        """What the requests are told that it held."""
        if isinstance(self.cause, WorkerDied | Draining):
            return self.cause
        ending = f"{self.cause} ({self.ending()})" if self.cause else self.ending()
        return WorkerDied(f"worker '{self.name}' of model '{self._model}' died: {ending}", self.exit_code)

    # ---- the loop's thread or a helper

    def fetch(self, data: Data, into: memoryview | None = None) -> Buffer:
        """The bytes of an answer, copied out of the reply memory.

        ValueError where they are not inside, HoldsTooMuch where the server has no room for them.
        """
        if not isinstance(data, tuple):
            return data
        if into is None and data[1] > holding.COUNTED:
            into = holding.memory(data[1])
        return self._reply.read(*data, into)

    def copied(self, results: Results) -> None:
        """The message's answers have left the reply memory: the worker may use their place again."""
        if not results.placed:
            return
        self._copied += 1
        self._untold += results.placed
        if self._untold > _TELL:
            self.tell_copied()

    def tell_copied(self) -> None:
        """Tells the worker how much of the reply memory is free."""
        self._untold = 0
        try:
            self.send(Copied(self._copied))
        except OSError:
            pass  # it is gone, and its memory with it

    def _handle(self, message: Message) -> None:
        if isinstance(message, Left):
            self._life.left(message.code)
            return
        with self._io.coalescer.together():  # a batch's answers leave for their front end in one piece
            self._on_message(self, message)

    # ---- whoever has the socket

    def _listen(self) -> None:
        """Gives the socket to the loop that is to wait for what comes next."""
        if not self.loaded:
            self._watch(self._io.threads.loop, self._call_helper)
            return
        reactor = self._io.reactors.current()
        if reactor is None or not self._watch(reactor, self._serve):
            self._watch(self._io.threads.loop, self._serve_meanwhile)

    def _watch(self, loop: Reactor, serve: Callable[[], bool]) -> bool:
        return loop.watch(self._socket.fileno(), serve, self._returned)

    # ---- the loop's thread

    def _call_helper(self) -> bool:
        self._returns = True
        return False

    def _serve(self) -> bool:
        """Handles what has come, for one `TURN`; false where a helper has to go on."""
        try:
            taken = 0
            while (message := self._channel.take()) is not None:
                if isinstance(message, Results) and message.placed > _LIGHT:
                    self._left_over = message
                    return self._call_helper()
                self._handle(message)
                taken += 1
                if taken >= TURN and not self._channel.holds_frame:
                    break
        except Exception as error:  # noqa: BLE001 - raised again by the helper
            self._failure = error
            return self._call_helper()
        return self._call_helper() if self._channel.is_long else True

    def _serve_meanwhile(self) -> bool:
        """The same, as long as there is no reactor, whose thread would have handled the request before."""
        return self._serve() and self._io.reactors.current() is None

    def _returned(self) -> None:
        """The loop has let the socket go: for a helper, or because it has ended or another one is to have it."""
        if not self._returns:
            try:
                self._listen()
                return
            except Exception as error:  # noqa: BLE001 - the kernel has no room, say: a helper ends the worker, and tells why
                self._failure = error
        self._returns = False
        self._io.threads.helpers.submit(self._read)

    # ---- a helper

    def _read(self) -> None:
        """Handles what the loop must not; there is something to be read."""
        try:
            if self._failure is not None:
                raise self._failure
            self._handle(self._left_over or self._channel.receive())
            self._left_over = None
            while self._channel.holds_frame:  # the loop would not see it in the socket
                self._handle(self._channel.receive())
            self._listen()
            return
        except PeerClosed:
            pass
        except (BadFrame, ValueError) as error:
            self.kill(JitneyError(f"worker '{self.name}' sent something that is no message of ours: {error}"))
        except Exception as error:
            log.exception("worker '%s': its messages cannot be handled", self.name)
            self.kill(JitneyError(f"worker '{self.name}' was ended: {type(error).__name__}: {error}"))
        self._finish()
        self._on_exit(self)

    def _finish(self) -> None:
        while not self._life.wait(_END_S):
            self.kill()
        self._life.bury(_END_S)  # for its last words; bounded, because requests wait to be told
        self._close()

    def bury(self) -> None:
        """After its end: waits until all that it printed is logged."""
        self._life.bury()

    def _close(self) -> None:
        self._socket.close()
        self._reply.close()
