"""inference.GRPCInferenceService and grpc.health.v1.Health: which code answers which call."""

from __future__ import annotations

from typing import Any

import grpc

from ...http.middleware.tokens import Kind
from .. import schema
from ..calls import Services
from ..guard import guards
from ..relayed import relayed
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
                answer = relayed(services, "triton", guard, method, errors.status_of, slow=name in _SLOW)
                read, write = method.request.FromString, method.response.SerializeToString
                handler = grpc.unary_unary_rpc_method_handler(answer, read, write)
            found[method.path] = handler
    return found
