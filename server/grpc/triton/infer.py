"""ModelInfer: one request, one answer."""

from __future__ import annotations

import time
from typing import Any

from ....core.errors import JitneyError, Unsupported
from ....core.model_config import ModelConfig
from ...http.kserve.headers import ForwardedHeaders
from ...http.kserve.request import InferRequest
from ...http.torchserve.errors import Target
from ..calls import Awaited, Services, abort
from ..guard import Guard
from ..handler_infer import HandlerInfer
from ..open_calls import has_id
from . import errors, reply
from .request import Reader
from .versions import version_of

PATH = "/inference.GRPCInferenceService/ModelInfer"


class Preparing:
    """Reads requests and hands them to their models."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._headers = ForwardedHeaders(services.settings.grpc.forward_pattern)

    def config(self, reader: Reader) -> tuple[str | None, ModelConfig]:
        """The version that is named, and the configuration of the one that serves. InvalidRequest, or no such model."""
        version = version_of(reader.message.model_version)
        return version, self.services.dataplane.config(reader.model, version)

    def read(self, reader: Reader, metadata: Any) -> tuple[InferRequest, bool]:
        """The request, with the metadata that is forwarded; whether a stream's end is to be told."""
        asked, empty_final = reader.read(self.services.regions)
        if self._headers.active:
            pairs = [(name, value) for name, value in metadata() if isinstance(value, str)]
            asked.request.parameters = {**asked.request.parameters, **self._headers.of(pairs)}
        return asked, empty_final

    def submit(self, reader: Reader, version: str | None, asked: InferRequest, on_answer: Any) -> Any:
        """Queues the request; its call."""
        given = asked.parameters
        return self.services.dataplane.infer(
            reader.model, version, asked.request, priority=given.priority, timeout_us=given.timeout_us, on_answer=on_answer
        )


class Infer:
    """The unary call."""

    def __init__(self, preparing: Preparing, guard: Guard) -> None:
        self._preparing, self._guard = preparing, guard
        self._handlers = HandlerInfer(preparing.services)

    async def __call__(self, data: bytes, context: Any) -> bytes:
        request_id, began = "", time.monotonic_ns()

        def status_of(error: JitneyError) -> tuple[str, str]:
            return errors.status_of(error, request_id)

        try:
            if not self._guard.lets_all_pass:
                self._guard.check(context.invocation_metadata() or ())
            with self._preparing.services.place(len(data)):
                reader = Reader(data)
                request_id = reader.id
                has_id(request_id)
                return await self._answer(reader, context, began)
        except Exception as error:
            await abort(context, error, status_of, "ModelInfer", request_id)
            raise

    async def _answer(self, reader: Reader, context: Any, began: int) -> bytes:
        preparing = self._preparing
        version, config = preparing.config(reader)
        if config.decoupled:
            raise Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        if config.backend == "handler":
            return await self.ask_handler(reader, Target(reader.model, version), context, raw=True)
        asked, _ = preparing.read(reader, context.invocation_metadata)
        awaited, response = Awaited(), None
        call = preparing.submit(reader, version, asked, awaited.on_answer)
        try:
            response = await awaited.only()
            return reply.render(call.config or config, asked, response)
        finally:
            call.cancel()  # nothing, where it is over
            preparing.services.traced(context, PATH, began, call, errors.status_of, response)

    async def ask_handler(self, reader: Reader, target: Target, context: Any, *, raw: bool) -> bytes:
        """The answer of a TorchServe handler, its tensors typed or `raw`."""
        asked, _ = self._preparing.read(reader, context.invocation_metadata)
        return await self._handlers.answer(asked, target, context, raw=raw)
