"""Predictions and StreamPredictions: inputs by name to a handler, or through a model's codec; its answers as bytes.

A handler sees each input as a bytearray under its name, and nothing of the call's metadata (TorchServe).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc

from ....core.request import Part
from ...http.torchserve.errors import Target
from ...http.torchserve.render import new_request_id
from .. import schema
from ..calls import Awaited, abort
from ..guard import Guard
from ..open_calls import has_id
from ..predicting import Predicting
from .errors import inference_status

PACKAGE = "org.pytorch.serve.grpc.inference"


def parts_of(request: Any) -> list[Part]:
    """The inputs by name. A message keeps no order of them."""
    return [Part(name, request.input[name]) for name in sorted(request.input)]


def target_of(request: Any) -> Target:
    return Target(request.model_name, request.model_version or None)


def sequence_of(request: Any, names: Sequence[str]) -> dict[str, str]:
    """What a message says of its sequence, as an HTTP request's headers would: its field, and inputs of their names."""
    named, *flags = names
    found = {named: request.sequence_id} if request.sequence_id else {}
    return found | {name: bytes(request.input[name]).decode("latin-1") for name in flags if name in request.input}


class Predictions:
    """The unary call, and the one that streams answers."""

    def __init__(self, predicting: Predicting, guard: Guard) -> None:
        self._predicting, self._guard = predicting, guard
        self._answer = schema.torchserve().message(f"{PACKAGE}.PredictionResponse")

    async def one(self, request: Any, context: Any) -> Any:
        """The first answer: a handler that streams is not asked for more."""
        path = f"/{PACKAGE}.InferenceAPIsService/Predictions"
        answers = self._answers(request, context, path)
        try:
            return await anext(answers)
        finally:
            await answers.aclose()

    async def stream(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """All answers as they come."""
        path = f"/{PACKAGE}.InferenceAPIsService/StreamPredictions"
        async for answer in self._answers(request, context, path, paced=True):
            yield answer

    async def _answers(self, request: Any, context: Any, path: str, *, paced: bool = False) -> AsyncGenerator[Any, None]:
        target, nbytes, began = target_of(request), request.ByteSize(), time.monotonic_ns()
        request_id = new_request_id()
        has_id(request_id)
        try:
            if not self._guard.lets_all_pass:
                self._guard.check(context.invocation_metadata() or ())
            with self._predicting.services.place(nbytes):
                awaited = Awaited()
                headers = sequence_of(request, self._predicting.services.settings.sequence_headers)
                call = await self._predicting.ask(target, parts_of(request), awaited, headers, request_id)
                if paced:
                    awaited.pace(call)
                try:
                    async for response in awaited.stream():
                        yield self._answer(prediction=await self._predicting.body(call, response, target))
                finally:
                    call.cancel()  # nothing, where it is over
                    self._predicting.traced(context, path, began, call, target)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error, lambda error: inference_status(error, target), "Predictions")
            raise
