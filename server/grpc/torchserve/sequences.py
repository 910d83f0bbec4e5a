"""StreamPredictions2: TorchServe's way of asking archives with sequence batching, which jitney does not serve.

What can be said of a message is said as TorchServe says it, in a message with a status; a model without sequence batching,
which is any here, ends the call with the reason (in TorchServe its worker hangs).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import any_pb2

from ....core.errors import InvalidParameter, JitneyError
from .. import schema
from ..calls import Services, abort
from ..guard import Guard
from .errors import inference_status
from .predictions import PACKAGE, target_of

_INTERNAL = 13


class StreamPredictions2:
    def __init__(self, services: Services, guard: Guard) -> None:
        self._services, self._guard = services, guard
        self._answer = schema.torchserve().message(f"{PACKAGE}.PredictionResponse")

    async def __call__(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            self._guard.check(context.invocation_metadata() or ())
        except JitneyError as error:
            await abort(context, error, inference_status, "StreamPredictions2")
        async for request in requests:
            try:
                self._check(request)
            except JitneyError as error:
                yield self._told(error)
                continue
            text = f"model '{request.model_name}' has no sequence batching; ask it with Predictions or StreamPredictions"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)

    def _check(self, request: Any) -> None:
        target = target_of(request)
        if not target.model:
            raise InvalidParameter("model_name", None, "the name of a model")
        self._services.dataplane.config(target.model, target.version)
        if not request.sequence_id:
            raise InvalidParameter("sequenceId", None, "the sequence that the message belongs to")

    def _told(self, error: JitneyError) -> Any:
        """The status as a part of the stream: code, text, and TorchServe's class as the reason."""
        message, _, reason = inference_status(error)[1].rpartition("\n")
        info = schema.torchserve().message("google.rpc.ErrorInfo")(reason=reason)
        detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
        answer = self._answer()
        answer.status.code, answer.status.message = _INTERNAL, message
        answer.status.details.add().ParseFromString(detail.SerializeToString())
        return answer
