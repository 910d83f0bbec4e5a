"""Work of a listener's threads: requests for the application, or to be refused, and the head of each answer."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from waitress.task import ErrorTask, Task, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import build_http_date

from .. import threads
from .express import LightRequest, LightResponse, Shortcut, Trip
from .later import Later, collect
from .parser import Head, keeps_open
from .receiver import BodyStream

log = logging.getLogger(__name__)

#: How long no thread is asked for after the system had none left.
SHORT_SECONDS = 1.0


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
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


#: What a request does not share with others that have the same head.
OWN = frozenset({"REMOTE_ADDR", "REMOTE_HOST", "REMOTE_PORT", "wsgi.input", "waitress.client_disconnected"})
_LINE = "\r\n"


@functools.lru_cache(2)
def date_of(second: int) -> str:
    return str(build_http_date(second))


class Errand:
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
    """One request for the application, with jitney's keys in its environ.

    `later` is claimed where the application returned without the answer. Then `conclude` follows `service`, and after either
    of them `over`, each on whatever thread the channel chooses.
    """

    complete: bool

    def __init__(self, channel: Any, request: Any) -> None:
        super().__init__(channel, request)
        self.at_end: list[Callable[[], None]] = []
        self.later = Later(self._ready)
        self.streams = False
        self.returned = self.woken = self.proceeds = False  # the loop's thread alone knows them

    def get_environment(self) -> dict[str, Any]:
        if self.environ is None:
            self.environ = self._fresh()
            self._add_own(self.environ)
        return self.environ

    def _add_own(self, environ: dict[str, Any]) -> None:
        environ["jitney.headers"] = self.request.raw_headers
        environ["jitney.on_disconnect"] = self.channel.on_disconnect
        environ["jitney.at_end"] = self.at_end
        environ["jitney.later"] = self.later

    def _fresh(self) -> dict[str, Any]:
        """WSGI's environ. All but the connection's part is the same for all requests with the same head."""
        head = self.request.head
        if head is None or head.environ is None:
            environ: dict[str, Any] = super().get_environment()
            if head is not None:
                head.environ = {name: value for name, value in environ.items() if name not in OWN}
            return environ
        environ = self._per_connection(head.environ.copy())
        environ["wsgi.input"] = self.request.get_body_stream()
        return environ

    def _per_connection(self, environ: dict[str, Any]) -> dict[str, Any]:
        host, port = self.channel.addr[:2]
        environ["REMOTE_ADDR"] = environ["REMOTE_HOST"] = host
        environ["REMOTE_PORT"] = str(port)
        return environ

    def finish(self) -> None:
        if not self.later.claimed or self.later.concluding:
            super().finish()

    def conclude(self) -> None:
        """Sends the answer that came later, unless it is a stream, for which `stream` is to be called."""
        self._send(*self.later.conclude())

    def _send(self, status: str, headers: list[tuple[str, str]], body: Iterable[bytes]) -> None:
        self.status, self.response_headers = status, headers
        self.complete, self.content_length = True, None
        if isinstance(body, list):
            data = b"".join(body)
            self.content_length = len(data)
            self.write(data)
            super().finish()
        else:
            self.streams, self._body = True, body

    def stream(self) -> None:
        """Sends the chunks of an answer as they come; blocks."""
        body = self._body
        try:
            for chunk in body:
                if chunk:
                    self.write(chunk)
            super().finish()
        finally:
            if hasattr(body, "close"):
                body.close()

    def over(self) -> None:
        """The answer is out, or given up."""
        self.channel.gone = None
        for callback in self.at_end:
            callback()
        self.at_end.clear()
        self.later.forget()

    def has_returned(self) -> None:
        """The loop's thread: `service` is over, and the answer is still to come."""
        self.returned = True
        self.channel.proceed(self)

    def _ready(self) -> None:
        self.channel.server.loop.post(self._wake)

    def _wake(self) -> None:
        self.woken = True
        self.channel.proceed(self)


class KnownTask(AppTask):
    """A request whose head has a short way to its route; its body is there as a whole. The loop's thread alone serves it."""

    def __init__(self, channel: Any, head: Head, body: bytes | bytearray) -> None:
        super().__init__(channel, head)
        self._body_in = body

    def serve(self) -> None:
        """Has the route render the answer, or claim that it comes later."""
        resp = LightResponse()
        self.request.route(self._light_request(), resp)
        if not self.later.claimed:
            self._send(*collect(resp))

    def respond(self, trip: Trip, shortcut: Shortcut, error: Exception | None) -> None:
        """Has the route render what its shortcut leaves to it."""
        req, resp = self._light_request(), LightResponse()
        del req.env["jitney.later"]
        req.context.began = trip.began
        shortcut.respond(trip, req, resp, error)
        self._send(*collect(resp))

    def _light_request(self) -> LightRequest:
        self.start()
        head = self.request
        environ = self.environ = self._per_connection(head.environ.copy())
        environ["wsgi.input"] = BodyStream(self._body_in)
        self._add_own(environ)
        return LightRequest(environ, head.length)


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
