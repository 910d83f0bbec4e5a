"""Work of a listener's threads: requests for the application, or to be refused, and the head of each answer."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress.task import ErrorTask, Task, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import build_http_date

from ...process import threads
from .parser import keeps_open

log = logging.getLogger(__name__)

#: How long no thread is asked for after the system had none left.
SHORT_SECONDS = 1.0


class TaskPool(ThreadedTaskDispatcher):  # type: ignore[misc]
    """The threads of one listener, named after it: one at first, more as tasks find none idle, at most `most`.

    A queue is no reason to warn: admission bounds what waits.
    """

    lock: threading.Lock
    threads: set[int]
    stop_count: int
    active_count: int

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.most = 0
        self._not_before = 0.0  # monotonic seconds

    def start(self, most: int) -> None:
        """Starts the first thread and allows for `most`; TooFewThreads where the system has none left."""
        self.most = most
        with threads.needed(f"the requests of listener '{self.name}'"):
            self._add_thread()

    def start_new_thread(self, target: Callable[[int], None], thread_no: int) -> None:
        threading.Thread(target=target, name=f"http-{self.name}-{thread_no}", args=(thread_no,), daemon=True).start()

    def handler_thread(self, thread_no: int) -> None:
        """Works until it is told to stop. Between two tasks it refers to neither: an answer would live as long as it is idle."""
        while self._work(thread_no):
            pass

    def _work(self, thread_no: int) -> bool:
        """Does one task; false where the thread is to end."""
        with self.lock:
            while not self.queue and not self.stop_count:
                self.active_count -= 1
                self.queue_cv.wait()
                self.active_count += 1
            if self.stop_count:
                self.active_count -= 1
                self.stop_count -= 1
                self.threads.discard(thread_no)
                self.thread_exit_cv.notify()
                return False
            task = self.queue.popleft()
        try:
            task.service()
        except BaseException:
            log.exception("listener '%s': a task failed", self.name)
        return True

    def add_task(self, task: Any) -> None:
        with self.lock:
            self.queue.append(task)
            self.queue_cv.notify()
            idle = len(self.threads) - self.stop_count - self.active_count
            short = len(self.queue) > idle and len(self.threads) < self.most
        if short and time.monotonic() >= self._not_before:
            self._grow()

    def _grow(self) -> None:
        """One thread more, unless the system has none left: the tasks wait for those that there are."""
        try:
            self._add_thread()
        except RuntimeError as error:
            self._not_before = time.monotonic() + SHORT_SECONDS
            log.warning("listener '%s' goes on with %d threads: %s", self.name, len(self.threads), error)

    def _add_thread(self) -> None:
        with self.lock:
            if len(self.threads) >= self.most:
                return
            number = next(number for number in itertools.count() if number not in self.threads)
            self.threads.add(number)
            self.active_count += 1  # until it waits for its first task
        try:
            self.start_new_thread(self.handler_thread, number)
        except RuntimeError:
            with self.lock:
                self.threads.discard(number)
                self.active_count -= 1
            raise

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        self.most = 0
        return bool(super().shutdown(cancel_pending, timeout))


_LINE = "\r\n"


@functools.lru_cache(2)
def date_of(second: int) -> str:
    return str(build_http_date(second))


class Job:
    """Anything that a thread of the pool is to do."""

    def __init__(self, service: Callable[[], None]) -> None:
        self.service = service

    def cancel(self) -> None:
        """The pool ends before it came to it."""


class HeadWriter(Task):  # type: ignore[misc]
    """Writes the head of an answer: the application's spelling, keep-alive also after chunks, `connection` as announced."""

    environ: dict[str, Any] | None
    response_headers: list[tuple[str, str]]
    close_on_finish: bool
    wrote_header: bool

    def build_response_header(self) -> bytes:
        environ = self.environ or {}
        spelling = environ.get("jitney.spelling") or {}
        headers = self.response_headers
        names = {name.lower() for name, _ in headers}
        if not self.has_body:
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        elif "content-length" not in names:
            self._frame_body(headers)
        wanted = environ.get("jitney.connection")
        if self.close_on_finish or wanted == "close" or not self._client_keeps_open():
            self.close_on_finish = True
            headers.append(("connection", "close"))
        elif wanted or self.version == "1.0":
            headers.append(("connection", "keep-alive"))
        if "date" not in names:
            headers.append(("date", date_of(int(self.start_time))))
        lines = [f"{spelling.get(name.lower(), name)}: {value}" for name, value in headers]
        return f"HTTP/1.1 {self.status}\r\n{_LINE.join(lines)}\r\n\r\n".encode("latin-1")

    def _frame_body(self, headers: list[tuple[str, str]]) -> None:
        if self.content_length is not None:
            headers.append(("content-length", str(self.content_length)))
        elif self.version == "1.1":
            headers.append(("transfer-encoding", "chunked"))
            self.chunked_response = True
        else:
            self.close_on_finish = True

    def _client_keeps_open(self) -> bool:
        if self.channel.server.draining:
            return False
        return keeps_open(str(self.version), self.request.headers.get("CONNECTION"))

    def write(self, data: bytes) -> None:
        """Sends head and body in one packet where both are at hand."""
        if self.complete and not self.wrote_header and self.has_body and data:
            head = self.build_response_header()
            if not self.chunked_response and self.content_length in (None, len(data)) and len(data) <= 65536:
                self.wrote_header = True
                self.content_bytes_written += len(data)
                self.channel.write_soon(head + data)
                return
            self.channel.write_soon(head)
            self.wrote_header = True
        super().write(data)


class AppTask(HeadWriter, WSGITask):  # type: ignore[misc]
    """One request for the application, with jitney's keys in its environ."""

    def __init__(self, channel: Any, request: Any) -> None:
        super().__init__(channel, request)
        self.at_end: list[Callable[[], None]] = []

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ["jitney.headers"] = self.request.head.pairs
        environ["jitney.on_disconnect"] = self.channel.on_disconnect
        environ["jitney.at_end"] = self.at_end
        return environ

    def over(self) -> None:
        """The answer is out, or given up."""
        self.channel.gone = None
        for callback in self.at_end:
            callback()
        self.at_end.clear()


class RefusalTask(HeadWriter, ErrorTask):  # type: ignore[misc]
    """A request that never reaches the application, answered in the dialect's way.

    After an announced body that is too long the connection stays open, its bytes are dropped (TorchServe).
    """

    environ = None

    def execute(self) -> None:
        request = self.request
        self.status, headers, body = self.channel.server.refuse(getattr(request, "path", ""), request.error)
        self.response_headers.extend(headers)
        self.content_length = len(body)
        self.close_on_finish = not self.channel.survives(request)
        self.write(b"" if getattr(request, "command", "") == "HEAD" else body)
