"""Asking models as TorchServe's clients do: named inputs to a handler, or through a model's codec; answers as bytes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ...core.call import Call, failed
from ...core.errors import InvalidParameter, JitneyError, ModelNotFound, VersionNotFound, WorkerDied
from ...core.request import Part, Request, Response
from ..http.torchserve.errors import Target
from ..http.torchserve.render import new_request_id
from .calls import Awaited, Services
from .torchserve.errors import inference_status

log = logging.getLogger(__name__)


class Predicting:
    """Hands requests to models and takes their answers."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._limit = services.settings.max_response_size

    async def ask(
        self, target: Target, parts: list[Part], awaited: Awaited, sequence: Mapping[str, str], request_id: str = ""
    ) -> Call:
        """Queues a request, and counts it unless no such model exists. A stateful model is told of the sequence.

        `request_id`: "" for one that is made up.
        """
        if not target.model:
            raise InvalidParameter("model_name", None, "the name of a model")
        plane, model, version = self.services.dataplane, target.model, target.version
        request = Request(request_id or new_request_id(), [], parts, {})
        try:
            config = plane.config(model, version)
            if config.sequence is not None:
                request.headers = dict(sequence)
            if config.backend == "handler":
                call: Call = plane.predict(model, version, request, on_answer=awaited.on_answer)
            else:  # its codec may take its time
                call = await _beside(plane.predict, model, version, request, awaited.on_answer)
        except (ModelNotFound, VersionNotFound):
            raise
        except JitneyError:
            self.services.metrics.requested(model, version)
            raise
        self.services.metrics.requested(model, version)
        return call

    def traced(self, context: Any, path: str, began: int, call: Call, target: Target) -> None:
        """Has a request traced that is over; see `Services.traced`."""
        self.services.traced(context, path, began, call, lambda error: inference_status(error, target))

    async def body(self, call: Call, response: Response, target: Target) -> bytes:
        """What a response says; the model's error is raised."""
        if response.error is not None:
            raise failed(response.error)
        encode = call.encode
        if encode is not None:
            response = await _beside(encode, response)
        body = bytes(response.body or b"")
        if len(body) > self._limit:
            log.error("model '%s' answered with %d bytes, more than max_response_size", target.model, len(body))
            raise WorkerDied(f"the answer has {len(body)} bytes, more than max_response_size={self._limit}")
        return body


async def _beside(function: Any, *arguments: Any) -> Any:
    """Runs what takes its time in a thread beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
