"""Running out of memory: what counts as it, and what the next batches are spared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jitney.backends.batch import KEPT_SHAPES, TensorBackend
from jitney.backends.memory import TRY_AGAIN, FittingRows, is_out_of_memory
from jitney.backends.options import CannotLoad
from jitney.backends.stacking import Array
from jitney.core.model_config import ModelConfig
from jitney.core.request import Instance
from jitney.server.workers.own_process import MALLOC
from jitney.tests.fakes.tensors import answers, arrays, config, request, spec


def accelerator_error(text: str, code: int) -> Exception:
    error: Exception = torch.AcceleratorError(text)
    error.error_code = code  # type: ignore[attr-defined]
    return error


#: As torch 2.13, ONNX Runtime 1.31 and numpy 2.4 say it.
SAYS_SO: list[Exception] = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    accelerator_error("CUDA error: out of memory", 2),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
    ),
    RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' Status "
        "Message: bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 4294967296"
    ),
    RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:359 Extend Available memory of 1024 is smaller than requested bytes of 4096"
    ),
    RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; expr=cudaHostAlloc((void**)&p, size, 1);"
    ),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc"),
]
SAYS_SOMETHING_ELSE: list[Exception] = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered"),
    RuntimeError("CUDA failure 209: no kernel image is available"),
    accelerator_error("CUDA error: an illegal memory access was encountered", 700),
    ValueError("the memory of this conversation is empty"),
]


@pytest.mark.parametrize("error", SAYS_SO, ids=lambda error: str(error)[:40])
def test_each_kind_is_known_for_what_it_is(error: Exception) -> None:
    assert is_out_of_memory(error)
    try:
        raise CannotLoad("model.onnx cannot be loaded") from error
    except CannotLoad as outer:
        assert is_out_of_memory(outer)


@pytest.mark.parametrize("error", SAYS_SOMETHING_ELSE, ids=lambda error: str(error)[:40])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_chains_of_errors_may_go_in_a_circle() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert not is_out_of_memory(one)


class Small(TensorBackend):
    """A model that doubles batches of at most `room` rows of `x`."""

    def __init__(self, room: int, error: Callable[[], Exception] = MemoryError) -> None:
        self.room, self.error, self.ran = room, error, list[int]()

    def open(self, model: ModelConfig, instance: Instance) -> None:
        pass

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        values = inputs["x"].values
        self.ran.append(len(values))
        if values.size > self.room * 3:
            raise self.error()
        return {"y": Array("FP32", values * 2)}


def small(folder: Path, room: int, dims: int = 3) -> Small:
    backend = Small(room)
    model = config(folder, "eager", [spec("x", dims)], [spec("y", dims)], parameters={"warmup": "off"})
    backend.load(model, Instance("m_0"))
    return backend


def ask(backend: Small, count: int, width: int = 3) -> list[int]:
    """Executes one batch of single rows; the sizes that the model was given."""
    backend.ran.clear()
    sent = [np.full((1, width), index, np.float32) for index in range(count)]
    for array, answer in zip(sent, answers(backend, [request(x=array) for array in sent]), strict=True):
        np.testing.assert_array_equal(arrays(answer)["y"], array * 2)
    return backend.ran


def test_what_has_not_fitted_is_not_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = small(tmp_path, room=10)
    assert ask(backend, 32) == [32, 16, 8, 8, 16, 8, 8]
    assert (
        "model 'm': a batch of 16 rows does not fit into memory; batches are run in parts of at most 8 rows" in caplog.text
    )
    assert ask(backend, 32) == [8, 8, 8, 8]
    assert ask(backend, 7) == [7]
    caplog.clear()
    sizes = [max(ask(backend, 32)) for _ in range(TRY_AGAIN)]
    assert sizes.count(16) == 1, "once in a while more is tried, for memory that others have given back"
    assert sizes[-1] == 8 or sizes[-2:] == [8, 16]
    backend.room = 100
    for _ in range(TRY_AGAIN):
        ask(backend, 32)
    assert ask(backend, 32) in ([16, 16], [32])


def test_other_shapes_are_not_made_small(tmp_path: Path) -> None:
    backend = small(tmp_path, room=10, dims=-1)
    assert ask(backend, 8, width=12)[0] == 8
    assert ask(backend, 8, width=12) == [2, 2, 2, 2]
    assert ask(backend, 8) == [8]
    for width in range(100, 100 + 2 * KEPT_SHAPES):
        backend.room = 2 * width // 3
        ask(backend, 8, width)
    assert len(backend.fitting) == KEPT_SHAPES


def test_one_request_that_never_fits_is_told(tmp_path: Path) -> None:
    backend = small(tmp_path, room=2)
    wide = request(x=np.ones((4, 3), np.float32))
    fine = request(x=np.ones((1, 3), np.float32))
    for _ in range(2):
        bad, good = answers(backend, [wide, fine])
        assert bad.error is not None
        assert (bad.error.code, bad.error.message) == ("OUT_OF_MEMORY", "MemoryError")
        assert good.error is None


def test_requests_are_parted_in_their_order() -> None:
    fitting = FittingRows("m")
    assert list(fitting.parts([3, 4, 5])) == [slice(0, 3)]
    fitting.too_many(12)
    assert list(fitting.parts([3, 4, 5])) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(fitting.parts([1, 2, 3, 9, 1])) == [slice(0, 3), slice(3, 4), slice(4, 5)]
    assert list(fitting.parts([2, 2, 2])) == [slice(0, 3)]


KEEPS = """
import numpy as np, psutil
from jitney.backends.memory import trim
resident = lambda: psutil.Process().memory_info().rss >> 20
kept = [np.ones(1 << 20, np.uint8) for _ in range(200)]
held = resident()
last = kept.pop()  # lies above what is freed, so that the heap cannot shrink by itself
del kept
freed = resident()
trim()
print(held - freed, freed - resident(), last[0])
"""


def test_what_weights_took_on_their_way_to_a_card_goes_back_to_the_system() -> None:
    """With the settings that workers get, freed memory stays with the process until it is asked to let it go."""
    done = subprocess.run(
        [sys.executable, "-c", KEEPS], env={**os.environ, **MALLOC}, capture_output=True, text=True, timeout=60, check=True
    )
    by_itself, by_trim, _ = map(int, done.stdout.split())
    assert by_itself < 20
    assert by_trim > 150
