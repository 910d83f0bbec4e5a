"""StreamPredictions2: the requests of sequences in one stream, for archives with `sequenceBatching`.

Each message is answered before the next one is looked at. What is wrong with a message is said in a message with a status
(TorchServe); a model without sequence batching ends the call with the reason (in TorchServe its worker hangs).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import any_pb2

from ....core.errors import InvalidParameter, JitneyError
from .. import schema
from ..calls import Awaited, abort
from ..guard import Guard
from ..predicting import Predicting
from .errors import inference_status
from .predictions import PACKAGE, parts_of, sequence_of, target_of

_INTERNAL = 13


class StreamPredictions2:
    def __init__(self, predicting: Predicting, guard: Guard) -> None:
        self._predicting, self._services, self._guard = predicting, predicting.services, guard
        self._answer = schema.torchserve().message(f"{PACKAGE}.PredictionResponse")

    async def __call__(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            self._guard.check(context.invocation_metadata() or ())
        except JitneyError as error:
            await abort(context, error, inference_status, "StreamPredictions2")
        async for request in requests:
            try:
                if not self._check(request):
                    text = f"model '{request.model_name}' has no sequence batching; ask it with Predictions or StreamPredictions"
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
                async for answer in self._answers(request):
                    yield answer
            except JitneyError as error:
                yield self._told(error)

    async def _answers(self, request: Any) -> AsyncIterator[Any]:
        target, awaited = target_of(request), Awaited()
        with self._services.place(request.ByteSize()):
            headers = sequence_of(request, self._services.settings.sequence_headers)
            call = await self._predicting.ask(target, parts_of(request), awaited, headers)
            awaited.pace(call)
            try:
                async for response in awaited.stream():
                    yield self._answer(prediction=await self._predicting.body(call, response, target))
            finally:
                call.cancel()  # nothing, where it is over

    def _check(self, request: Any) -> bool:
        """Whether the model has sequences."""
        target = target_of(request)
        if not target.model:
            raise InvalidParameter("model_name", None, "the name of a model")
        config = self._services.dataplane.config(target.model, target.version)
        if not request.sequence_id:
            raise InvalidParameter("sequenceId", None, "the sequence that the message belongs to")
        return config.sequence is not None

    def _told(self, error: JitneyError) -> Any:
        """The status as a part of the stream: code, text, and TorchServe's class as the reason."""
        message, _, reason = inference_status(error)[1].rpartition("\n")
        info = schema.torchserve().message("google.rpc.ErrorInfo")(reason=reason)
        detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
        answer = self._answer()
        answer.status.code, answer.status.message = _INTERNAL, message
        answer.status.details.add().ParseFromString(detail.SerializeToString())
        return answer
