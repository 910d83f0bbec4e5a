"""The models that are served meanwhile. Each answer is a function of its request, so that every client knows the right one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ...archive import ModelArchiverConfig, generate_model_archive

#: Seconds after which a worker that does not answer is replaced, and after which one that does not load is given up: the model
#: that never loads, and the others.
ANSWER_S, LOAD_S, PATIENT_LOAD_S = 1, 2, 20

_LINEAR = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.005)  # so that there is something to lose
        x = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * array + 1)]) for array in x]
"""
_WIDE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            count, start = pb_utils.get_input_tensor_by_name(request, "x").as_numpy().tolist()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.arange(start, start + count, dtype=np.int32))]))
        return answers
"""
#: Does what it is told to: whatever a model's code may do to the process that it runs in.
_MAD = """
import ctypes, os, resource, sys, time
import numpy as np
import triton_python_backend_utils as pb_utils

def take_all_memory():
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    kept = []
    while True:
        kept.append(bytearray(1 << 20))

def print_lines(count):
    for _ in range(count):
        sys.stdout.write("x" * (1 << 20) + "\\n")

def print_one_line(count):
    for _ in range(count):
        sys.stderr.write("y" * (1 << 20))

def fork(count):
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)

def raise_what_is_no_exception():
    class Odd(BaseException):
        pass
    raise Odd("odd")

DEEDS = {
    "print": lambda n: print_lines(n), "line": lambda n: print_one_line(n), "close": lambda n: os.closerange(0, 1024),
    "fork": lambda n: fork(n), "memory": lambda n: take_all_memory(), "exit": lambda n: os._exit(n),
    "crash": lambda n: ctypes.string_at(0), "hang": lambda n: time.sleep(3600), "leave": lambda n: sys.exit(n),
    "odd": lambda n: raise_what_is_no_exception(), "abort": lambda n: os.abort(), "nothing": lambda n: None,
}

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            deed, _, number = pb_utils.get_input_tensor_by_name(request, "x").as_numpy().flat[0].decode().partition(" ")
            DEEDS[deed](int(number or 0))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([deed.encode()], object))]))
        return answers
"""
_STUCK = """
import threading

class TritonPythonModel:
    def initialize(self, args):
        lock = threading.Lock()
        with lock, lock:
            pass

    def execute(self, requests):
        return []
"""
_DIGEST = """
import hashlib

def handle(data, context):
    if data is None:
        return None
    return [hashlib.sha256(bytes(row.get("body") or row.get("data") or b"")).hexdigest() for row in data]
"""

#: Answers one request until its client has gone, as fast as it can.
_ENDLESS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            while not request.is_cancelled():
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.zeros(1, np.float32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def _config(
    kind_in: str,
    dims_in: str,
    kind_out: str,
    dims_out: str,
    more: str = "",
    instances: int = 1,
    load_s: int = PATIENT_LOAD_S,
) -> str:
    return f"""backend: "python"
input [ {{ name: "x" data_type: TYPE_{kind_in} dims: [ {dims_in} ] }} ]
output [ {{ name: "y" data_type: TYPE_{kind_out} dims: [ {dims_out} ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "response_timeout" value {{ string_value: "{ANSWER_S}" }} }}
parameters {{ key: "startup_timeout" value {{ string_value: "{load_s}" }} }}
{more}
"""


def write(folder: Path) -> tuple[Path, Path]:
    """Writes the repository and the store of archives below `folder`; returns both."""
    repository, store = folder / "models", folder / "store"
    batches = "max_batch_size: 8 dynamic_batching { }"
    for name, config, source in (
        ("linear", _config("FP32", "-1", "FP32", "-1", batches, 2), _LINEAR),
        ("other", _config("FP32", "-1", "FP32", "-1", batches), _LINEAR),
        ("wide", _config("INT32", "2", "INT32", "-1"), _WIDE),
        ("mad", _config("STRING", "1", "STRING", "1"), _MAD),
        ("endless", _config("FP32", "1", "FP32", "1", "model_transaction_policy { decoupled: true }"), _ENDLESS),
        ("stuck", _config("FP32", "-1", "FP32", "-1", load_s=LOAD_S), _STUCK),
    ):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
        (repository / name / "1" / "model.py").write_text(source)
    store.mkdir()
    handler = folder / "digest_handler.py"
    handler.write_text(_DIGEST)
    for version in ("1.0", "2.0"):
        packed = ModelArchiverConfig("digest", version, f"{handler}:handle", export_path=str(folder / "packed"))
        generate_model_archive(packed).rename(store / f"digest_{version[0]}.mar")
    return repository, store


# What the models answer, as their clients know it.


def linear(x: np.ndarray) -> np.ndarray:
    return np.asarray(2 * x + 1)


def wide(count: int, start: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.int32)


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
