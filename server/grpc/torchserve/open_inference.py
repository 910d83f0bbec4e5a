"""ModelInfer of TorchServe's Open Inference Protocol service.

Handlers are asked by `handler_infer`, models that take tensors as over Triton's service, whose messages are the same on the wire.
"""

from __future__ import annotations

from typing import Any

import grpc

from ....core.errors import JitneyError
from ...http.torchserve.errors import Target
from ..calls import Services, abort
from ..guard import Guard
from ..triton.infer import Infer, Preparing
from ..triton.request import Reader
from .errors import inference_status


class OpenInfer:
    """The call of TorchServe's service."""

    def __init__(self, services: Services, preparing: Preparing, guard: Guard) -> None:
        self._services, self._guard = services, guard
        self._tensors = Infer(preparing, guard)

    async def __call__(self, data: bytes, context: Any) -> bytes:
        target = Target()

        def status_of(error: JitneyError) -> tuple[str, str]:
            return inference_status(error, target)

        try:
            self._guard.check(context.invocation_metadata() or ())
            reader = Reader(data)
            target = Target(reader.model, reader.message.model_version or None)
            if self._takes_tensors(target):
                return await self._tensors(data, context)
            with self._services.place(len(data)):
                return await self._tensors.ask_handler(reader, target, context, raw=False)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error, status_of, "ModelInfer")
            raise

    def _takes_tensors(self, target: Target) -> bool:
        return bool(target.model) and self._services.dataplane.config(target.model, target.version).backend != "handler"
