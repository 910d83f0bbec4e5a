"""A worker process that several models share: `python -m jitney.server.worker.shared`, started by `workers.shared_process` alone.

    main thread      receives, for each worker that is to live here, its socket and its memory    blocks on the control socket
    a worker's two   as the main and the watching thread of a worker's process (`main`)           block on its socket

Workers load one after the other, since libraries are imported and set up meanwhile; batches of different workers run at the same
time, since ONNX Runtime and torch leave Python's interpreter to others while they calculate. A worker that ends, because it was
told to or could not load its model, gives its memory back; what ends the process ends all workers. It ends when the control
socket closes, which is when the last worker has left or the server has ended.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from ...backends.base import Backend
from ...backends.memory import trim
from ..ipc.board import Board
from ..ipc.frame import PeerClosed
from ..process import exits
from ..workers.channel import MessageChannel
from ..workers.messages import Join, Left, Load, Loaded
from .main import Worker, end, settle

#: Bytes of a packet on the control socket, and its descriptors: a worker's socket, arena and reply memory.
_PACKET, _DESCRIPTORS = 4096, 3
_DECODER = msgspec.msgpack.Decoder(Join)
#: Seconds for which a worker's memory is kept after it has left, so that others may leave meanwhile.
MOMENT_S = 0.5
#: Held by the worker that loads its model.
_LOADING = threading.Lock()


class SharedWorker(Worker):
    """A worker that must leave the process alone, whatever happens to it."""

    def __init__(self, channel: MessageChannel, arena_fd: int, reply_fd: int, board: Board, place: int) -> None:
        super().__init__(channel, arena_fd, reply_fd, self._lose)
        self._board, self._place = board, place
        self._is_lost = False

    def _lose(self, code: int) -> None:
        """The server does not listen any more, or cannot be understood. Main or watching thread."""
        self._is_lost = True
        self._resting.abandon()
        if self._replies is not None:
            self._replies.abandon()

    def serve(self) -> int:
        try:
            return super().serve()
        finally:
            self._inbox.close()
            if self._replies is not None:
                self._replies.close()
            else:  # it left before it heard how much memory there is
                os.close(self._arena_fd)
                os.close(self._reply_fd)

    def _load(self, message: Load) -> Backend:
        with _LOADING:
            if self._is_lost:
                raise PeerClosed("the server does not want the model any more")
            self._board.note(self._place, works=True)
            try:
                backend = super()._load(message)
            finally:
                self._board.note(self._place, works=False)
        if self._is_lost:
            raise PeerClosed("the server does not want the model any more")
        return backend

    def _refuse(self, error: BaseException) -> None:
        if not self._is_lost:  # else there is nobody to tell
            super()._refuse(error)

    def _note(self, works: bool) -> None:
        self._board.note(self._place, works)


def live(join: Join, connection: socket.socket, memory: Sequence[int], board: Board, cleaner: Cleaner) -> None:
    """A worker from its arrival to its last word."""
    channel, code = MessageChannel(connection), exits.CRASHED
    try:
        code = SharedWorker(channel, memory[0], memory[1], board, join.place).serve()
    except (PeerClosed, ConnectionError):
        code = exits.STOPPED
    except BaseException:  # noqa: BLE001 - a defect: the server logs the traceback
        traceback.print_exc()
    board.clear(join.place)
    say(channel, Left(code))
    connection.close()
    cleaner.clean()


class Cleaner:
    """Gives the memory of workers that have left back to the system: once for all that leave within a moment, since it keeps
    Python busy for some 10 ms, and 100 where torch is imported."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = self._cleaned = 0

    def clean(self) -> None:
        with self._lock:
            self._left += 1
            mine = self._left
        time.sleep(MOMENT_S)
        with self._lock:
            if self._cleaned >= mine:
                return
            self._cleaned = self._left
            gc.unfreeze()  # what has left may lie in circles, which only the collector finds
            trim()
            gc.freeze()


def say(channel: MessageChannel, message: Loaded | Left) -> None:
    try:
        channel.send(message)
    except OSError:
        pass  # the server has left already


def welcome(control: socket.socket, board: Board, cleaner: Cleaner) -> bool:
    """Waits for one worker and gives it a thread; false where none will come any more."""
    packet, descriptors, _, _ = socket.recv_fds(control, _PACKET, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        return False
    join = _DECODER.decode(packet)
    connection, memory = socket.socket(fileno=descriptors[0]), descriptors[1:]
    thread = threading.Thread(target=live, args=(join, connection, memory, board, cleaner), name=join.name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        channel = MessageChannel(connection)
        say(channel, Loaded(f"the process that it shares has no thread left: {error}"))
        say(channel, Left(exits.LOAD_FAILED))
        connection.close()
        for fd in memory:
            os.close(fd)
    return True


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(description="A worker process for several models; the server starts it.")
    for name in ("control-fd", "board-fd", "trace-fd", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--name", required=True, help="the process' name, for `ps`")
    options = parser.parse_args(arguments)
    settle(options.parent)
    for fd in (options.control_fd, options.board_fd, options.trace_fd):
        os.set_inheritable(fd, False)
    faulthandler.enable(os.fdopen(options.trace_fd, "wb", buffering=0), all_threads=True)  # which one crashed it
    control, board, cleaner = socket.socket(fileno=options.control_fd), Board.of(options.board_fd), Cleaner()
    code = exits.STOPPED
    try:
        while welcome(control, board, cleaner):
            pass
    except BaseException:  # noqa: BLE001 - a defect: the server logs the traceback
        traceback.print_exc()
        code = exits.CRASHED
    end(code)


if __name__ == "__main__":
    main()
