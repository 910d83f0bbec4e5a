"""TorchServe's services: which code answers which call of the inference and of the management port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from ...http.middleware.tokens import Kind
from .. import schema
from ..calls import Services
from ..guard import Guard, guards
from ..predicting import Predicting
from ..relayed import relayed
from ..schema import Method
from ..triton.infer import Preparing
from .errors import inference_status, management_status
from .open_inference import OpenInfer
from .predictions import PACKAGE, Predictions
from .sequences import StreamPredictions2

INFERENCE = f"{PACKAGE}.InferenceAPIsService"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
#: What the description of a call says that there is not; {} is package.Service/Method.
UNKNOWN = "Method not found: {}"
_GROUPS = {
    "Ping": "health",
    "Predictions": "inference",
    "StreamPredictions": "inference",
    "StreamPredictions2": "inference",
    "ServerLive": "health",
    "ServerReady": "health",
    "ModelReady": "health",
    "ServerMetadata": "metadata",
    "ModelMetadata": "metadata",
    "ModelInfer": "inference",
}
_MANAGEMENT_GROUPS = {
    "DescribeModel": "metadata",
    "ListModels": "metadata",
    "RegisterModel": "model-repository",
    "ScaleWorker": "model-repository",
    "SetDefault": "model-repository",
    "UnregisterModel": "model-repository",
}


def _inference(group: str) -> Kind:
    return "inference"


def _management(group: str) -> Kind:
    return "management"


def inference_handlers(services: Services) -> dict[str, Any]:
    """The handlers of the inference port, by their paths."""
    methods = schema.torchserve().methods
    guarded = guards(services.settings, services.tokens, _GROUPS, _inference)
    found = _predictions(services, methods[INFERENCE], guarded)
    if services.settings.ts_open_inference_protocol:
        found |= _open_inference(services, methods[OPEN_INFERENCE], guarded)
    return found


def _predictions(services: Services, methods: Mapping[str, Method], guarded: Mapping[str, Guard]) -> dict[str, Any]:
    predicting, found = Predicting(services), {}
    for name, method in methods.items():
        read, write, guard = method.request.FromString, method.response.SerializeToString, guarded[name]
        if name == "Ping":
            handler = _relayed(services, "inference", guard, method)
        elif name == "Predictions":
            handler = grpc.unary_unary_rpc_method_handler(Predictions(predicting, guard).one, read, write)
        elif name == "StreamPredictions":
            handler = grpc.unary_stream_rpc_method_handler(Predictions(predicting, guard).stream, read, write)
        else:
            handler = grpc.stream_stream_rpc_method_handler(StreamPredictions2(predicting, guard).__call__, read, write)
        found[method.path] = handler
    return found


def _open_inference(services: Services, methods: Mapping[str, Method], guarded: Mapping[str, Guard]) -> dict[str, Any]:
    found, preparing = {}, Preparing(services)
    for name, method in methods.items():
        if name == "ModelInfer":
            handler = grpc.unary_unary_rpc_method_handler(OpenInfer(services, preparing, guarded[name]).__call__)
        elif name == "ServerMetadata":
            handler = grpc.unary_unary_rpc_method_handler(_unimplemented)
        else:
            handler = _relayed(services, "inference", guarded[name], method)
        found[method.path] = handler
    return found


async def _unimplemented(data: bytes, context: Any) -> bytes:
    """TorchServe has this call in its service and no code for it."""
    text = f"Method {OPEN_INFERENCE}/ServerMetadata is unimplemented"
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
    return b""


def management_handlers(services: Services) -> dict[str, Any]:
    """The handlers of the management port, by their paths."""
    guarded = guards(services.settings, services.tokens, _MANAGEMENT_GROUPS, _management)
    methods = schema.torchserve().methods[MANAGEMENT]
    return {method.path: _relayed(services, "management", guarded[name], method) for name, method in methods.items()}


def _relayed(services: Services, control: str, guard: Guard, method: Method) -> Any:
    status_of = management_status if control == "management" else inference_status
    return grpc.unary_unary_rpc_method_handler(
        relayed(services, control, guard, method, status_of, slow=control == "management"),
        method.request.FromString,
        method.response.SerializeToString,
    )
