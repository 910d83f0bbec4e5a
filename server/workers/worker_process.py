"""`WorkerProcess`: one worker process as the server sees it: started, spoken to, read from, killed, buried."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable

import psutil

from ...core import holding
from ...core.errors import Draining, JitneyError, WorkerDied
from ...core.model_config import ModelConfig
from ...core.request import Instance
from ...core.tensor import Buffer
from ..ipc.arena import Arena
from ..ipc.frame import BadFrame, PeerClosed
from ..ipc.io_context import IoContext
from ..ipc.memory import Region
from ..ipc.messages import Data, Message
from ..process import exits
from ..process.environment import SECRETS, module_command, own_python
from .channel import MessageChannel
from .logs import LogPump
from .messages import Copied, Execute, Load, Loaded, Results

log = logging.getLogger(__name__)

#: A worker that does not take a message for this long (its buffer of some 200 KB is full) is lost.
_SEND_TIMEOUT_S = 10
#: A process that closed its socket and does not end is killed after this.
_END_S = 2.0
#: A worker is told at once when more bytes than this were copied out of its reply memory; else with its next batch.
_TELL = 16 << 20
#: Answers with more bytes in shared memory than this are copied by the reading thread, and not by the loop of all connections.
_LIGHT = 1 << 20
#: glibc's malloc: a batch's activations come from memory that the process has already, instead of fresh pages from the system
#: for every batch, which took a fifth of a ResNet's time. What a worker once needed it keeps, up to 4 GiB.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def command(config: ModelConfig, instance: Instance, fds: tuple[int, int, int]) -> list[str]:
    """The worker's command line, in the model's own Python where it has one. InvalidConfig where that cannot be used."""
    module = f"{(__package__ or '').rpartition('.')[0]}.worker.main"
    named = config.parameters if config.backend == "python" else {}
    start = module_command(own_python(config.name, named, config.directory), module)
    if config.handler is not None and config.handler.python:
        start[0] = config.handler.python
    options = [f"--{name}={fd}" for name, fd in zip(("fd", "arena-fd", "reply-fd"), fds, strict=True)]
    return [*start, "--name", instance.name, *options, f"--parent={os.getpid()}"]


def environment(config: ModelConfig, instance: Instance) -> dict[str, str]:
    """The server's environment, the worker's share of threads (libraries read it once, at import), the model's own.

    Secrets of the server and what the configuration withholds stay out; `MALLOC` gives way to what the server's says.
    """
    threads = dict.fromkeys(_THREAD_VARIABLES, str(instance.threads))
    withheld = re.compile(config.withheld_environment)
    inherited = {k: v for k, v in os.environ.items() if k not in SECRETS and not withheld.fullmatch(k)}
    return {**MALLOC, **inherited, **threads, "PYTHONUNBUFFERED": "1", **config.environment}


class WorkerProcess:
    """A process, its socket, its reply memory, and the thread that reads from it (what it prints, one thread reads for all).

    `on_message(child, message)` is called by the reading thread or, while that lends its socket, by the process' reactor;
    finally `on_exit(child)`, by the reading thread. `send` and `kill` may be called by any thread. The thread that makes a
    WorkerProcess must outlive it: the kernel kills the process with that thread. OSError where the process cannot be started;
    nothing is left of it then.
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
    ) -> None:
        self.name, self._model, self._io = instance.name, config.name, io
        self.started = time.time()
        self.loaded, self.load_seconds = False, 0.0
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
            self._process = subprocess.Popen(
                command(config, instance, fds),
                env=environment(config, instance),
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except BaseException:
            self._socket.close()
            self._reply.close()
            raise
        finally:
            theirs.close()
        try:
            pipes = _take_pipes(self._process)
        except BaseException:
            self._end()
            raise
        self._reply.close_fd()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_TIMEOUT_S, 0))
        self._channel = MessageChannel(self._socket)
        self._killing = threading.Lock()
        self._returned = threading.Event()  # the reactor has given the socket back
        self._left_over: Message | None = None  # of what it read
        self._failure: Exception | None = None
        self._logs = LogPump(self.pid, config.name, self.name, *pipes)
        self._reader = threading.Thread(target=self._read, name=f"jitney-{self.name}-read", daemon=True)
        self._hello = Load(config, instance, arena.capacity, self._reply.nbytes, factory)

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- the thread that made it

    def begin(self) -> None:
        """Starts the threads and asks the process to load the model.

        RuntimeError where the system has no thread left; the process is gone then.
        """
        try:
            self._logs.start()
            self._reader.start()
        except RuntimeError:
            self._end()
            self._logs.abandon()
            raise
        try:
            self.send(self._hello)
        except OSError:
            pass  # it ended already; the reader says so
        except (TypeError, ValueError, OverflowError) as error:
            self.kill(JitneyError(f"the configuration cannot be sent to a worker: {error}"))

    def join(self) -> None:
        """Waits for the end of the threads of a child that exited."""
        self._reader.join()
        self._logs.join()

    # ---- any thread

    def send(self, message: Message) -> None:
        """OSError if the process is gone. A process that does not read is killed, and counts as gone."""
        try:
            self._channel.send(message)
        except BlockingIOError:
            self.kill(JitneyError(f"worker '{self.name}' took no message for {_SEND_TIMEOUT_S} s"))
            raise

    def execute(self, message: Execute) -> None:
        """Sends a batch, and how much of the reply memory is free. Errors as `send`'s."""
        message.copied, self._untold = self._copied, 0
        self.send(message)

    def kill(self, cause: JitneyError | None = None) -> None:
        """Ends the process at once; `cause` is what its requests are told instead of a plain death."""
        with self._killing:
            self.cause = self.cause or cause
            self._process.kill()  # no-op once it was waited for

    @property
    def frozen(self) -> bool:
        """Whether a signal (SIGSTOP) has stopped it: it will neither answer nor end by itself."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:  # it has ended
            return False

    @property
    def exit_code(self) -> int | None:
        """As a shell counts, 137 for SIGKILL; None while it runs."""
        code = self._process.returncode
        return None if code is None else exits.exit_code(code)

    @property
    def crashed(self) -> bool:
        """Whether it ended by itself, because of what it did. A SIGKILL is somebody else's: the server's, an operator's, or the
        kernel's for want of memory."""
        return self.cause is None and self._process.returncode not in (None, exits.STOPPED, -signal.SIGKILL, -signal.SIGTERM)

    def ending(self) -> str:
        """How it ended, with the last words on stderr where it was not killed."""
        code = self._process.returncode
        if code is None:
            return "still running"
        last = self._logs.tail[-1] if self._logs.tail and code > 0 else ""
        return exits.describe(code) + (f": {last}" if last else "")

    def death(self) -> JitneyError:
        """What the requests are told that it held."""
        if isinstance(self.cause, WorkerDied | Draining):
            return self.cause
        ending = f"{self.cause} ({self.ending()})" if self.cause else self.ending()
        return WorkerDied(f"worker '{self.name}' of model '{self._model}' died: {ending}", self.exit_code)

    # ---- reading thread

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

    def _read(self) -> None:
        try:
            while True:
                self._handle(self._left_over or self._channel.receive())
                self._left_over = None
                if self.loaded and not self._channel.holds_frame:  # the reactor would not see it in the socket
                    self._lend()
        except PeerClosed:
            pass
        except (BadFrame, ValueError) as error:
            self.kill(JitneyError(f"worker '{self.name}' sent something that is no message of ours: {error}"))
        except Exception as error:
            log.exception("worker '%s': its messages cannot be handled", self.name)
            self.kill(JitneyError(f"worker '{self.name}' was ended: {type(error).__name__}: {error}"))
        self._finish()
        self._on_exit(self)

    def _lend(self) -> None:
        """Lets the reactor read until it gives the socket back; raises what went wrong there."""
        reader = self._io.reactors.current()
        self._returned.clear()
        if reader is None or not reader.watch(self._socket.fileno(), self._serve, self._returned.set):
            return
        self._returned.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # ---- the reactor's thread

    def _serve(self) -> bool:
        """Handles what has come; false where the reading thread has to go on."""
        try:
            while (message := self._channel.take()) is not None:
                if isinstance(message, Results) and message.placed > _LIGHT:
                    self._left_over = message
                    return False
                self._handle(message)
        except Exception as error:  # noqa: BLE001 - raised again in the reading thread
            self._failure = error
            return False
        return not self._channel.is_long

    # ---- the reading thread or the reactor's

    def _handle(self, message: Message) -> None:
        with self._io.coalescer.together():  # a batch's answers leave for their front end in one piece
            self._on_message(self, message)

    # ---- the reading thread

    def _end(self) -> None:
        """Kills the process, where no thread is there to bury it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._reply.close()

    def _finish(self) -> None:
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._logs.join(_END_S)  # for its last words; bounded, because requests wait to be told
        self._socket.close()
        self._reply.close()


def _take_pipes(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The read ends of stdout and stderr, no longer owned by `process`."""
    if process.stdout is None or process.stderr is None:
        raise ValueError("the process was started without pipes")
    with process.stdout as stdout, process.stderr as stderr:
        out = os.dup(stdout.fileno())
        try:
            return out, os.dup(stderr.fileno())
        except OSError:
            os.close(out)
            raise
