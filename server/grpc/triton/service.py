"""inference.GRPCInferenceService and grpc.health.v1.Health: which code answers which call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import orjson
from google.protobuf import json_format

from ....core.errors import JitneyError
from ...http.middleware.tokens import Kind
from .. import schema
from ..calls import Services, abort
from ..guard import Guard, guards
from ..relay import Asked
from ..schema import Method
from . import errors
from .infer import Infer, Preparing
from .stream import StreamInfer

SERVICE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
#: tritonserver's groups of calls.
GROUPS = {
    "Check": "health",
    "ServerLive": "health",
    "ServerReady": "health",
    "ModelReady": "health",
    "ServerMetadata": "metadata",
    "ModelMetadata": "metadata",
    "ModelInfer": "inference",
    "ModelStreamInfer": "inference",
    "ModelConfig": "model-config",
    "ModelStatistics": "statistics",
    "RepositoryIndex": "model-repository",
    "RepositoryModelLoad": "model-repository",
    "RepositoryModelUnload": "model-repository",
    "SystemSharedMemoryStatus": "shared-memory",
    "SystemSharedMemoryRegister": "shared-memory",
    "SystemSharedMemoryUnregister": "shared-memory",
    "CudaSharedMemoryStatus": "shared-memory",
    "CudaSharedMemoryRegister": "shared-memory",
    "CudaSharedMemoryUnregister": "shared-memory",
    "TraceSetting": "trace",
    "LogSettings": "logging",
}
#: Calls that last as long as a model needs to load.
_SLOW = ("RepositoryModelLoad", "RepositoryModelUnload")


def _kind_of(group: str) -> Kind:
    """The key that a group's calls need: models are changed with the management key only."""
    return "management" if group == "model-repository" else "inference"


def handlers(services: Services) -> dict[str, Any]:
    """The handlers of all calls, by their paths."""
    found, guarded = {}, guards(services.settings, services.tokens, GROUPS, _kind_of)
    preparing = Preparing(services)
    for service in (SERVICE, HEALTH):
        for name, method in schema.triton().methods[service].items():
            guard = guarded[name]
            if name == "ModelInfer":
                handler = grpc.unary_unary_rpc_method_handler(Infer(preparing, guard).__call__)
            elif name == "ModelStreamInfer":
                handler = grpc.stream_stream_rpc_method_handler(StreamInfer(preparing, guard).__call__)
            else:
                handler = grpc.unary_unary_rpc_method_handler(
                    relayed(services, guard, name, method), method.request.FromString, method.response.SerializeToString
                )
            found[method.path] = handler
    return found


def relayed(services: Services, guard: Guard, name: str, method: Method) -> Callable[[Any, Any], Any]:
    """The handler of a call that the scheduler answers."""

    async def answer(request: Any, context: Any) -> Any:
        try:
            guard.check(context.invocation_metadata() or ())
            document = orjson.dumps(json_format.MessageToDict(request, preserving_proto_field_name=True))
            told = await services.relay.ask(Asked("triton", name, document, context.peer()), slow=name in _SLOW)
        except JitneyError as error:
            await abort(context, error, errors.status_of, name)
            raise
        if told.status != "OK":
            await context.abort(grpc.StatusCode[told.status], told.text)
        return json_format.ParseDict(orjson.loads(told.document), method.response(), ignore_unknown_fields=True)

    return answer
