"""A server with everything that it offers: a repository and a store, both dialects, gRPC of both originals, front ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from jitney.server.grpc import schema
from jitney.tests.fakes.plane import DOUBLING
from jitney.tests.fakes.serving import write_model
from jitney.tests.fakes.torchserve_server import Site, archive, running
from jitney.tools.bench.ports import free_port

#: Answers what it is sent, as it comes.
ECHO = """
def handle(data, context):
    if data is None:
        return None
    return [bytes(row.get("body") or row.get("data") or b"") for row in data]
"""
TEXT = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        found = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]) for x in found]
"""
TENSORS = """backend: "python" max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_{kind} dims: [ {dims} ] }} ]
output [ {{ name: "y" data_type: TYPE_{kind} dims: [ {dims} ] }} ]
"""


@dataclass
class Everything:
    """The server, and the ports on which it speaks gRPC."""

    site: Site
    grpc_ports: dict[str, int]
    folder: Path

    @property
    def pid(self) -> int:
        return self.site.server.process.pid

    def processes(self) -> list[psutil.Process]:
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    def call(self, port: str, method: schema.Method, message: Any, metadata: Any = None) -> tuple[str, str]:
        """Name of the status and details of a call, whichever its sides stream. "OK" and the answers otherwise."""
        sides = {
            (False, False): "unary_unary",
            (False, True): "unary_stream",
            (True, True): "stream_stream",
            (True, False): "stream_unary",
        }
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_ports[port]}") as channel:
            kind = getattr(channel, sides[method.client_streams, method.server_streams])
            call = kind(method.path, lambda data: data, lambda data: data)
            data = message if isinstance(message, bytes) else message.SerializeToString()
            try:
                answer = call(iter([data]) if method.client_streams else data, timeout=30, metadata=metadata)
                return "OK", repr(list(answer) if method.server_streams else answer)
            except grpc.RpcError as error:
                return error.code().name, error.details()


def methods() -> Iterator[tuple[str, schema.Method]]:
    """Every call of every service, with the port that it is on."""
    for found, port_of in ((schema.triton(), lambda name: "triton"), (schema.torchserve(), _torchserve_port)):
        for service, calls in found.methods.items():
            for method in calls.values():
                yield port_of(service), method


def _torchserve_port(service: str) -> str:
    return "management" if service.endswith("ManagementAPIsService") else "inference"


@contextlib.contextmanager
def everything(folder: Path, **settings: str) -> Iterator[Everything]:
    models = folder / "models"
    write_model(models, "m", TENSORS.format(kind="FP32", dims="2"), DOUBLING)
    write_model(models, "text", TENSORS.format(kind="STRING", dims="1"), TEXT)
    archive(folder / "store", "echo", ECHO)
    ports = {"triton": free_port(), "inference": free_port(), "management": free_port()}
    more: dict[str, Any] = {
        "model_repository": str(models),
        "model_control_mode": "explicit",
        "load_model": "*",
        "allow_grpc": "true",
        "grpc_port": str(ports["triton"]),
        "load_models": "echo.mar",
        "default_workers_per_model": "1",
        "ts_open_inference_protocol": "true",
        "enable_model_api": "true",
        "front_ends": "2",
    }
    more |= {f"grpc_{api}_port": str(ports[api]) for api in ("inference", "management")}
    with running(folder, **more | settings) as site:
        yield Everything(site, ports, folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    with everything(tmp_path_factory.mktemp("everything"), disable_token_authorization="true") as found:
        yield found
