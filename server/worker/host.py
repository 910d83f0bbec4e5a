"""`FrameHost`: what a worker's backend asks of the server, as messages. Worker process only."""

from __future__ import annotations

import itertools
import os
import queue
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from ...backends.base import DeviceLost, Host
from ...core.errors import ModelFailed
from ...core.request import Request, Response
from ..ipc import wire
from ..process import exits
from ..workers.channel import MessageChannel
from ..workers.messages import Event, HostCall, HostCancel, HostReply

_READER, _WRITER = msgspec.msgpack.Decoder(HostCall), msgspec.msgpack.Encoder()

Replies = queue.SimpleQueue[HostReply]


def _check(call: HostCall) -> None:
    """TypeError for a call that the server could not read: it would take that for the end of this process.

    The data of tensors and files are left out: they are bytes, whatever they hold.
    """
    request = call.request
    if request is not None:
        tensors = [msgspec.structs.replace(tensor, data=b"") for tensor in request.tensors]
        request = msgspec.structs.replace(request, tensors=tensors, parts=[])
    try:
        _READER.decode(_WRITER.encode(msgspec.structs.replace(call, request=request, arguments={})))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"'{call.verb}' of model {call.model!r} cannot be sent: {error}") from None


class FrameHost(Host):
    """Sends each call with a number of its own; the receiving thread hands the replies to the one that waits."""

    def __init__(self, channel: MessageChannel) -> None:
        self._channel = channel
        self.on_call: Callable[[], None] = lambda: None  # the model begins to wait for replies
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Replies] = {}

    # ---- any thread of the backend

    def emit(self, kind: str, payload: Mapping[str, Any], held: bool = False) -> None:
        event = Event(kind, dict(payload))
        if held:
            self._channel.hold(event)
        else:
            self._channel.send(event)

    def infer(self, model: str, version: str, request: Request) -> Iterator[Response]:
        """TypeError for names, ids, outputs or parameters that are of other types than the server reads."""
        message = wire.request_to_wire(request, ())
        number, replies = self._call("infer", model, version=version, request=message)
        return self._responses(number, replies)  # a generator of its own, so that the call is sent now and not at `next`

    def lose(self, error: DeviceLost) -> NoReturn:
        print(f"worker ends because its device is lost: {error}", file=sys.stderr, flush=True)  # noqa: T201 - logged
        os._exit(exits.DEVICE_LOST)

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        """ModelFailed with the server's reason where it refuses; TypeError for a name that is no text."""
        number, replies = self._call(verb, model, arguments=dict(arguments))
        try:
            reply = replies.get()
        finally:
            self._waiting.pop(number, None)
        if reply.error is not None:
            raise ModelFailed(reply.error.message, reply.error.code)
        return reply.value

    def _call(self, verb: str, model: str, **fields: Any) -> tuple[int, Replies]:
        number, replies = next(self._numbers), Replies()
        call = HostCall(number, verb, model, **fields)
        _check(call)
        self._waiting[number] = replies
        try:
            self._channel.send(call)
        except BaseException:
            self._waiting.pop(number, None)
            raise
        self.on_call()
        return number, replies

    def waiting(self) -> bool:
        """Whether the model waits for a reply."""
        return bool(self._waiting)

    def _responses(self, number: int, replies: Replies) -> Iterator[Response]:
        ended = False
        try:
            while not ended:
                reply = replies.get()
                ended = reply.final
                if reply.error is not None:
                    yield Response(error=reply.error)
                elif reply.response is not None:
                    yield wire.response_from_wire(reply.response, wire.by_value)
        finally:
            self._waiting.pop(number, None)
            if not ended:
                self._channel.send(HostCancel(number))

    # ---- whichever thread receives

    def deliver(self, reply: HostReply) -> None:
        """Hands over a reply; dropped where no thread waits any more."""
        replies = self._waiting.get(reply.call)
        if replies is not None:
            replies.put(reply)
