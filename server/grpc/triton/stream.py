"""ModelStreamInfer: any number of requests on one stream, each with none, one or several answers.

Answers of decoupled models go out as they come. Those of all others keep the order of their requests, as in Triton. An error is
an answer like any other and ends nothing, unless the client asked for that (metadata `triton_grpc_error`).

    reading task    reads requests and queues them; rests while `BACKLOG` answers wait to be sent, or `OPEN` requests for theirs
    handler's task  renders and sends answers, one at a time: what the client does not read stays where it came from
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc

from ....core import holding
from ....core.call import Call, size
from ....core.errors import (
    Cancelled,
    Draining,
    InvalidRequest,
    JitneyError,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    Unsupported,
    VersionNotFound,
)
from ....core.model_config import ModelConfig
from ....core.request import Response
from ....core.window import Window
from ...http.kserve.request import InferRequest
from ..calls import INTERNAL, abort
from ..guard import Guard
from ..open_calls import write
from . import answers, errors, reply
from .answers import Answer
from .infer import Preparing
from .request import Reader

log = logging.getLogger(__name__)

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
#: Answers that may wait to be sent before no further request is read.
BACKLOG = 64
#: Requests of one stream that may be open; the next one is read when there is room, so that one stream does not take all places.
OPEN = 256

#: Errors of requests that no model has taken, also where the scheduler is who says so.
REFUSALS = (InvalidRequest, QueueFull, Draining, ModelNotFound, VersionNotFound, ModelNotReady, Unsupported)


class Exchange:
    """One request of a stream, from its arrival to its last answer. Belongs to the event loop, except for `on_answer`."""

    def __init__(self, stream: Stream, reader: Reader, nbytes: int) -> None:
        self.stream, self.id = stream, reader.id
        self.model, self.version = reader.model, reader.message.model_version
        self.asked: InferRequest | None = None
        self.config: ModelConfig | None = None
        self.decoupled = self.empty_final = self.over = False
        self.call: Call | None = None
        self.window: Window | None = None
        self.kept: deque[Answer] = deque()  # answers whose turn has not come
        self.place, self.began = stream.preparing.services.place(nbytes), time.monotonic_ns()

    def on_answer(self, answer: Answer) -> None:
        """`Call.on_answer`: any thread."""
        self.stream.post(self, answer)

    def took(self, answer: Answer) -> None:
        """The client has taken a part."""
        if self.window is not None:
            self.window.took(size(answer))


class Stream:
    """One call of ModelStreamInfer."""

    def __init__(self, preparing: Preparing, context: Any, ends_at_error: bool) -> None:
        self.preparing, self._context, self._ends_at_error = preparing, context, ends_at_error
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._open: dict[Exchange, None] = {}
        self._ordered: deque[Exchange] = deque()  # of models that give one answer, in the order of their requests
        self._ready: deque[tuple[Exchange, Answer]] = deque()
        self._unread, self._waiting = holding.Pile(), 0  # parts that wait, and their bytes
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._draining = False
        self._reading: asyncio.Task[None] | None = None

    def drain(self) -> None:
        """Has it end when every request that was read has its last answer: the server stops."""
        self._draining = True
        if self._reading is not None:
            self._reading.cancel()
        self._news.set()

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Until the client has ended its side and every request has its last answer."""
        reading = self._reading = asyncio.ensure_future(self._read(requests))
        self.preparing.services.streams.add(self)
        try:
            while self._ready or self._open or not reading.done():
                await self._news.wait()
                self._news.clear()
                await self._send()
            if self._draining:
                raise Draining("the server is stopping")
            reading.result()
        finally:
            self.preparing.services.streams.discard(self)
            reading.cancel()
            self._close()

    def _close(self) -> None:
        for exchange in list(self._open):
            self._end(exchange)
            if exchange.call is not None:
                exchange.call.cancel(Cancelled("the client went away"))

    # -- requests --------------------------------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        try:
            async for data in requests:
                self._begin(data)
                while len(self._ready) > BACKLOG or len(self._open) >= OPEN:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._news.set()

    def _begin(self, data: bytes) -> None:
        try:
            reader = Reader(data)
        except JitneyError as error:
            self._refuse(error, "")
            return
        exchange = Exchange(self, reader, len(data))
        try:
            exchange.place.__enter__()
        except JitneyError as error:
            self._refuse(error, reader.id)
            return
        self._open[exchange] = None
        try:
            self._submit(exchange, reader)
        except Exception as error:  # noqa: BLE001 - the stream goes on
            exchange.asked = None  # no model has it
            self._take(exchange, answers.told(error))

    def _refuse(self, error: JitneyError, request_id: str) -> None:
        self._ready.append((_Refused(request_id), error))
        self._news.set()

    def _submit(self, exchange: Exchange, reader: Reader) -> None:
        preparing = self.preparing
        try:
            version, exchange.config = preparing.config(reader)
            if exchange.config.backend == "handler":
                raise Unsupported(f"model '{exchange.model}' is a TorchServe archive, which is asked with ModelInfer")
            exchange.decoupled = exchange.config.decoupled
        finally:
            if not exchange.decoupled:
                self._ordered.append(exchange)
        asked, exchange.empty_final = preparing.read(reader, self._context.invocation_metadata)
        exchange.asked = asked
        exchange.call = preparing.submit(reader, version, asked, exchange.on_answer)
        window = exchange.window = exchange.call.window if exchange.decoupled else None
        if window is not None:
            window.by_client = True  # answers come as the client takes them

    # -- answers ---------------------------------------------------------------------------------------------------------

    def post(self, exchange: Exchange, answer: Answer) -> None:
        """Any thread."""
        if threading.get_ident() == self._thread:
            self._take(exchange, answer)
        else:
            self._loop.call_soon_threadsafe(self._take, exchange, answer)

    def _take(self, exchange: Exchange, answer: Answer) -> None:
        if exchange not in self._open:
            return
        if answers.is_last(answer):
            exchange.over = True
        else:
            self._unread.put(size(answer))
            self._waiting += size(answer)
            if exchange.call is not None and self._unread.is_too_much:
                exchange.call.cancel(holding.process.refusal())
        if exchange.decoupled:
            self._ready.append((exchange, answer))
        else:
            exchange.kept.append(answer)
            self._let_go()
        self._news.set()

    def _let_go(self) -> None:
        """The answers of ordered requests whose turn it is."""
        while self._ordered and self._ordered[0].over:
            exchange = self._ordered.popleft()
            for answer in exchange.kept:
                if not answers.is_last(answer):
                    self._took(answer)
            self._ready.append((exchange, answers.only(exchange.kept)))
            exchange.kept.clear()

    def _end(self, exchange: Exchange) -> None:
        if self._open.pop(exchange, exchange) is None:
            exchange.place.__exit__(None, None, None)
            self._room.set()
            if exchange.call is not None:
                services = self.preparing.services
                services.traced(self._context, PATH, exchange.began, exchange.call, errors.status_of)

    def _took(self, answer: Answer) -> None:
        """A part waits no longer."""
        self._unread.take(size(answer))
        self._waiting -= size(answer)

    async def _send(self) -> None:
        while self._ready:
            exchange, answer = self._ready.popleft()
            if not answers.is_last(answer):
                self._took(answer)
            if isinstance(exchange, _Refused):
                await write(self._context, reply.refusal(answers.text(answer, exchange.id), exchange.id), self._waiting)
                continue
            for message in await self._messages(exchange, answer):
                await write(self._context, message, self._waiting)
            if answers.is_last(answer):
                self._end(exchange)
            else:
                exchange.took(answer)
            if len(self._ready) <= BACKLOG:
                self._room.set()

    async def _messages(self, exchange: Exchange, answer: Answer) -> list[bytes]:
        """What is sent for one answer."""
        error = answers.error_of(answer)
        asked, config = exchange.asked, exchange.config
        if error is None and isinstance(answer, Response) and asked is not None and config is not None:
            if exchange.decoupled and answer.final and not answer.tensors:
                return self._ending(exchange)
            if exchange.call is not None and exchange.call.config is not None:
                config = exchange.call.config
            try:
                return [reply.in_stream(reply.render(config, asked, answer, answer.final))]
            except Exception as raised:  # noqa: BLE001 - the stream goes on
                error = answers.told(raised)
        if error is None:
            error = JitneyError(INTERNAL)
        if asked is None or isinstance(error, REFUSALS):
            return [reply.refusal(errors.status_of(error, exchange.id)[1], exchange.id)]
        if self._ends_at_error:
            await abort(self._context, error, lambda error: errors.status_of(error, exchange.id), "ModelStreamInfer")
        return self._failure(exchange, error, answers.is_last(answer))

    def _failure(self, exchange: Exchange, error: JitneyError, last: bool) -> list[bytes]:
        """An error of the model; where it is a decoupled model's last word, its end follows (Triton)."""
        text = errors.status_of(error, exchange.id)[1]
        told = reply.failure(text, exchange.model, exchange.version, exchange.id, last and not exchange.decoupled)
        return [told, *(self._ending(exchange) if last and exchange.decoupled else [])]

    def _ending(self, exchange: Exchange) -> list[bytes]:
        return [reply.ending(exchange.model, exchange.version, exchange.id)] if exchange.empty_final else []


class _Refused(Exchange):
    """A request that came no further than to be read."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id


class StreamInfer:
    """The call with a stream on both sides."""

    def __init__(self, preparing: Preparing, guard: Guard) -> None:
        self._preparing, self._guard = preparing, guard

    async def __call__(self, requests: AsyncIterator[bytes], context: Any) -> None:
        metadata = tuple(context.invocation_metadata() or ())
        try:
            self._guard.check(metadata)
            ends_at_error = dict(metadata).get("triton_grpc_error") == "true"
            await Stream(self._preparing, context, ends_at_error).run(requests)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:
            log.debug("a stream's client has gone")  # nothing can be sent, no status either
        except Exception as error:  # noqa: BLE001 - every call ends with a status
            await abort(context, error, errors.status_of, "ModelStreamInfer")
