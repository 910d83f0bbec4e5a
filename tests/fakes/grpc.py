"""A real server that speaks gRPC, small models for it, and requests as clients write them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from jitney.tests.fakes.serving import write_model
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, serving

X = np.array([[1.5, -2.0], [0.1, 4]], np.float32)

#: Doubles `x`; a first element below -1 is how many milliseconds that takes (and leaves the file `begun`), -1000 ends the
#: process. Tells the size of each batch, and what came with the request.
DOUBLE = """
import json, os, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers, rows = [], sum(len(pb_utils.get_input_tensor_by_name(r, "x").as_numpy()) for r in requests)
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            if x.size and x.flat[0] == -1000:
                os._exit(7)
            if x.size and x.flat[0] < -1:
                open(os.path.join(os.path.dirname(__file__), "begun"), "w").close()
                time.sleep(float(-x.flat[0]) / 1000)
            told = {"id": request.request_id(), "parameters": json.loads(request.parameters()), "timeout": request.timeout(),
                    "batch": rows, "requests": len(requests)}
            told = np.full((len(x), 1), json.dumps(told).encode(), object)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x * 2), pb_utils.Tensor("told", told)]))
        return answers
"""
DOUBLE_CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" },
         { name: "told" data_type: TYPE_STRING dims: [ 1 ] } ]
"""
#: Answers `n` times, one after the other `ms` later; a negative number is an error.
COUNT = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            n, ms = pb_utils.get_input_tensor_by_name(request, "n").as_numpy().tolist()
            sender = request.get_response_sender()
            for i in range(n):
                if request.is_cancelled():
                    break
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("i", np.array([i], np.int32))]))
                time.sleep(ms / 1000)
            if n < 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("negative", pb_utils.TritonError.INVALID_ARG)))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
COUNT_CONFIG = """
backend: "python"
input [ { name: "n" data_type: TYPE_INT32 dims: [ 2 ] } ]
output [ { name: "i" data_type: TYPE_INT32 dims: [ 1 ] } ]
model_transaction_policy { decoupled: true }
"""
#: Sums up the inputs of each sequence.
SUM = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        answers = []
        for request in requests:
            read = lambda name: pb_utils.get_input_tensor_by_name(request, name).as_numpy().flat[0]
            name = read("id")
            self.sums[name] = (0 if read("start") else self.sums[name]) + read("v")
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("sum", np.array([[self.sums[name]]], np.int32))]))
        return answers
"""
SUM_CONFIG = """
backend: "python" max_batch_size: 4
input [ { name: "v" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "sum" data_type: TYPE_INT32 dims: [ 1 ] } ]
sequence_batching {
  oldest { max_candidate_sequences: 4 }
  control_input [ { name: "start" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
                  { name: "id" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] } ] }
"""


@dataclass
class Site:
    """A running server and where it speaks gRPC."""

    server: ServedProcess
    address: str


def repository(folder: Path, delay_us: int = 0) -> Path:
    """The models `double`, which waits for a batch for so long, `count`, which is decoupled, and `sum`, with sequences."""
    more = "instance_group [ { kind: KIND_CPU } ] dynamic_batching { max_queue_delay_microseconds: %d priority_levels: 2 "
    more = more % delay_us + "default_priority_level: 1 default_queue_policy { allow_timeout_override: true } }"
    write_model(folder, "double", DOUBLE_CONFIG + more, DOUBLE)
    (folder / "double" / "labels.txt").write_text("left\nright\n")
    write_model(folder, "count", COUNT_CONFIG, COUNT)
    write_model(folder, "sum", SUM_CONFIG, SUM)
    return folder


@contextlib.contextmanager
def grpc_serving(folder: Path, *flags: str, properties: str = "", ports: Sequence[int] = ()) -> Iterator[Site]:
    """`jitney serve` on a repository, all of whose models are loaded, with gRPC on a port of its own."""
    port = free_port()
    given = ["--model-control-mode=explicit", "--load-model=*", f"--grpc-port={port}", *flags]
    with serving(folder, flags=given, properties=properties, grpc=True) as server:
        yield Site(server, f"127.0.0.1:{port}")


def given(array: np.ndarray[Any, Any] = X, name: str = "x") -> Any:
    """An input of a request."""
    datatype = {"f": "FP32", "i": "INT32"}[array.dtype.kind]
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def count(n: int, ms: int = 0) -> list[Any]:
    """The inputs of a request to `count`."""
    return [given(np.array([n, ms], np.int32), "n")]
