"""A worker process: `python -m jitney.server.worker.main`, started by `workers.worker_process` alone.

    main thread      load the model, then receive and execute batch after batch     blocks on the socket
    watching thread  receives while the main thread is busy (`inbox`): replies to   blocks on the socket
                     their waiters, cancellations to the running batch

It ends when it is told to stop, when the server's end of the socket closes, and when the server dies without a word. SIGINT,
SIGTERM and SIGHUP, which a terminal or a service manager sends to all processes at once, are left to the server: it drains first.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from ...backends.base import Backend, DeviceLost
from ...backends.extras import explain
from ...backends.memory import is_out_of_memory
from ...backends.telling import text_of, trace_of
from ...core.errors import JitneyError
from ...core.model_config import ModelConfig
from ..ipc.frame import BadFrame, PeerClosed
from ..ipc.memory import Region
from ..ipc.messages import Message
from ..process import exits, sandbox
from ..workers.channel import MessageChannel
from ..workers.messages import Cancel, Copied, Execute, HostReply, Load, Loaded, Recall, Recalled, Rest, Stop
from .host import FrameHost
from .inbox import Inbox
from .reply_memory import ReplyMemory
from .resting import Resting
from .running_batch import RunningBatch

_PR_SET_PDEATHSIG = 1


def load(message: Load, host: FrameHost) -> Backend:
    """Makes the backend and has it load the model; raises what the model's code raises."""
    create: Callable[[ModelConfig], Backend]
    if message.factory:
        module, _, function = message.factory.partition(":")
        create = getattr(importlib.import_module(module), function)
    else:
        from ...backends.factory import create  # late: it may import much, and must see the environment of this process
    backend = create(message.config)
    backend.host = host
    backend.load(message.config, message.instance)
    return backend


class Worker:
    """The life of a worker between the first message and the exit code. It has the process to itself (but see `shared`)."""

    def __init__(
        self, channel: MessageChannel, arena_fd: int, reply_fd: int, lost: Callable[[int], None] | None = None
    ) -> None:
        self._channel, self._arena_fd, self._reply_fd = channel, arena_fd, reply_fd
        self._host = FrameHost(channel)
        self._inbox = Inbox(channel, self._dispatch, self._expecting, lost)
        self._host.on_call = self._inbox.expect
        self._resting = Resting(self._inbox.expect)
        self._replies: ReplyMemory | None = None
        self._batches: dict[int, RunningBatch] = {}
        self._early_cancels: set[tuple[int, int]] = set()

    # ---- main thread

    def serve(self) -> int:
        """Loads the model, executes until told to stop; returns the exit code."""
        message = self._channel.receive()
        if not isinstance(message, Load):
            raise BadFrame(f"the first message must be Load, got {type(message).__name__}")
        arena, reply = Region(self._arena_fd, message.arena_bytes), Region(self._reply_fd, message.reply_bytes)
        arena.close_fd()
        reply.close_fd()
        self._replies = ReplyMemory(reply, self._ask_for_room)
        try:
            return self._live(message, arena, self._replies)
        finally:
            arena.close()

    def _live(self, message: Load, arena: Region, replies: ReplyMemory) -> int:
        self._inbox.start()
        try:
            backend = self._load(message)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: a script's sys.exit() is a failure to load
            self._refuse(error)
            return exits.LOAD_FAILED
        self._channel.send(Loaded())
        try:
            self._execute(backend, arena, replies, message.config)
        except DeviceLost as error:
            print(f"worker ends because its device is lost: {error}", file=sys.stderr, flush=True)  # noqa: T201 - logged
            return exits.DEVICE_LOST
        backend.unload()
        return exits.STOPPED

    def _load(self, message: Load) -> Backend:
        backend = load(message, self._host)
        gc.collect()
        gc.freeze()  # the model and its libraries stay: they need not be looked through while it answers
        return backend

    def _refuse(self, error: BaseException) -> None:
        reason = text_of(error) if isinstance(error, JitneyError) else explain(error)
        self._channel.send(Loaded(reason or type(error).__name__, trace_of(error), is_out_of_memory(error)))

    def _execute(self, backend: Backend, arena: Region, replies: ReplyMemory, config: ModelConfig) -> None:
        """One batch after the other. One that was only launched is answered when the next one is begun, or when it is over."""
        launched: RunningBatch | None = None
        while True:
            message = self._inbox.get() if launched is None else self._inbox.before(launched.is_over)
            following = None
            self._note(works=True)
            try:
                if isinstance(message, Execute):
                    batch = self._received(message, arena, replies, config)
                    following = batch if batch.begin(backend, config.retry_after_crash) else None
            finally:
                if launched is not None:
                    launched.end()
            launched = following
            self._note(works=launched is not None)
            if isinstance(message, Stop):
                return

    def _note(self, works: bool) -> None:
        """Whether the main thread has a batch."""

    def _received(self, message: Execute, arena: Region, replies: ReplyMemory, config: ModelConfig) -> RunningBatch:
        replies.copied(message.copied)
        batch = RunningBatch(message, self._channel, arena, replies, self._resting, config.overlaps)
        self._batches = {number: other for number, other in self._batches.items() if not other.done}
        self._batches[batch.id] = batch
        if self._early_cancels:
            self._cancel_early(batch)
        return batch

    def _cancel_early(self, batch: RunningBatch) -> None:
        """What was said of this batch before it was here; what is older is over."""
        for number, index in sorted(self._early_cancels):
            if number == batch.id:
                batch.cancel(index)
            if number <= batch.id:
                self._early_cancels.discard((number, index))

    # ---- whichever thread receives

    def _dispatch(self, message: Message) -> None:
        if isinstance(message, HostReply):
            self._host.deliver(message)
        elif isinstance(message, Cancel):
            self._early_cancels.add(
                (message.batch, message.index)
            )  # first: the main thread may be about to begin this batch
            running = self._batches.get(message.batch)
            if running is not None:
                running.cancel(message.index)
        elif isinstance(message, Recall):
            self._recall(message.batch)
        elif isinstance(message, Copied):
            if self._replies is not None:
                self._replies.copied(message.count)
        elif isinstance(message, Rest):
            self._resting.note(message.rests)
        else:
            raise BadFrame(f"{type(message).__name__} is not for a worker")

    def _recall(self, number: int) -> None:
        batch = self._inbox.recall(number)
        if batch is None:
            return  # it has begun, or is over
        if self._replies is not None:
            self._replies.copied(batch.copied)
        self._channel.send(Recalled(number))

    # ---- any thread

    def _ask_for_room(self) -> None:
        self._inbox.expect()
        self._channel.send(Copied())

    def _expecting(self) -> bool:
        """Whether the model waits for something that the server is about to say."""
        replies = self._replies
        return self._host.waiting() or self._resting.waiting() or (replies is not None and replies.waiting())


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the server's thread that started it ends, even if no Python code can run."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):  # pragma: no cover - a C library without prctl
        pass  # the socket's end tells us
    if os.getppid() != parent:
        os._exit(exits.PARENT_GONE)


def leave_signals_to_the_server() -> None:
    """SIGINT, SIGTERM and SIGHUP do nothing here."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
        # Processes that the model forks get the usual behaviour back, so that `terminate()` works on them.
        os.register_at_fork(after_in_child=lambda number=number: signal.signal(number, signal.SIG_DFL))


def settle(parent: int) -> None:
    """What a worker's process does before anything else. OSError where the system cannot limit it as the operator wants."""
    sys.argv = [""]  # as in Triton: a model's argparse must not find these flags
    die_with(parent)
    leave_signals_to_the_server()
    sandbox.enter()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def end(code: int) -> NoReturn:
    """Ends without waiting for threads that the model left running, which `sys.exit` would."""
    atexit._run_exitfuncs()
    logging.shutdown()  # pragma: no cover - which coverage is told by atexit, as it ends there
    for stream in (sys.stdout, sys.stderr):  # pragma: no cover - likewise
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(code)  # pragma: no cover - likewise


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(description="A worker process of jitney; the server starts it.")
    for name in ("fd", "arena-fd", "reply-fd", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--name", required=True, help="the instance's name, for `ps`")
    options = parser.parse_args(arguments)
    settle(options.parent)
    connection = socket.socket(fileno=options.fd)
    for fd in (options.fd, options.arena_fd, options.reply_fd):
        os.set_inheritable(fd, False)
    # A forked child holding the socket would hide this process's death from the server.
    os.register_at_fork(after_in_child=connection.close)
    try:
        code = Worker(MessageChannel(connection), options.arena_fd, options.reply_fd).serve()
    except (PeerClosed, ConnectionError):
        code = exits.PARENT_GONE
    except BaseException:  # noqa: BLE001 - a defect, or sys.exit() in the model: the server logs the traceback
        traceback.print_exc()
        code = exits.CRASHED
    end(code)


if __name__ == "__main__":
    main()
