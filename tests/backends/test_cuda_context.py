"""`cuda_context`: what torch and the driver say after a synchronize, on a machine that need not have a GPU."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from jitney.backends import cuda_context
from jitney.tests.backends.test_onnx import model, save_identity
from jitney.tests.fakes.tensors import answers, arrays, loaded, request


class Driver:
    """libcuda's functions for `contexts`: device -> (in use, a synchronize's code). `stack` counts what is held."""

    def __init__(self, contexts: dict[int, tuple[bool, int]], initialised: bool = True) -> None:
        self.contexts, self.initialised, self.stack = contexts, initialised, 0
        self.asked: list[int] = []
        self.current = -1
        self.locked: dict[int, int] = {}
        self.refuses = False

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.contexts)
        return 0 if self.initialised else 3

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDevicePrimaryCtxGetState(self, device: Any, flags: Any, active: Any) -> int:
        active._obj.value = int(self.contexts[device.value][0])
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
        self.current, self.stack = device, self.stack + 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: int) -> int:
        self.stack -= 1
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:
        self.stack += 1
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        self.stack -= 1
        return 0

    def cuCtxSynchronize(self) -> int:
        self.asked.append(self.current)
        return self.contexts[self.current][1]

    def cuMemHostRegister_v2(self, address: Any, size: Any, flags: int) -> int:
        if self.refuses:
            return 2
        self.locked[address.value] = size.value
        return 0

    def cuMemHostUnregister(self, address: Any) -> int:
        del self.locked[address.value]
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = ctypes.c_char_p(b"device-side assert triggered").value
        return 0


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)


def use(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    monkeypatch.setattr(cuda_context, "driver", lambda: driver)
    return driver


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("code", [700, 702, 710, 715, 719, 214, 999_999])
def test_the_driver_names_a_context_that_is_lost(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    driver = use(monkeypatch, Driver({0: (False, 0), 1: (True, code)}))
    assert cuda_context.lost() == f"CUDA error {code}: device-side assert triggered"
    assert driver.asked == [1], "a device that is not in use was asked"
    assert driver.stack == 0


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("code", [0, 1, 2, 9, 201, 701, 900, 906])
def test_errors_that_pass_leave_the_context_usable(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    driver = use(monkeypatch, Driver({0: (True, code)}))
    assert cuda_context.lost() == ""
    assert driver.asked == [0]
    assert driver.stack == 0


@pytest.mark.usefixtures("without_torch")
def test_a_driver_that_nothing_has_begun_to_use_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = use(monkeypatch, Driver({0: (True, 710)}, initialised=False))
    assert cuda_context.lost() == ""
    assert not driver.asked


@pytest.mark.parametrize(("code", "lost"), [(710, "CUDA error: assert"), (None, "CUDA error: assert"), (2, ""), (901, "")])
def test_torch_is_asked_by_a_synchronize(monkeypatch: pytest.MonkeyPatch, code: int | None, lost: str) -> None:
    def synchronize() -> None:
        error: Any = torch.AcceleratorError("CUDA error: assert\nFor debugging consider CUDA_LAUNCH_BLOCKING=1")
        if code is not None:
            error.error_code = code
        raise error

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert cuda_context.lost() == lost


def test_a_process_without_cuda_is_sound_and_loads_nothing() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert cuda_context.lost() == ""
    assert "libcuda" not in Path("/proc/self/maps").read_text()
    assert cuda_context.driver() is None


def test_torch_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert cuda_context.lost() == ""


def test_page_locked_memory_is_let_go_with_its_last_view(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = use(monkeypatch, Driver({0: (True, 0)}))
    memory = cuda_context.page_locked(5000, 0)
    assert (memory.size, memory.itemsize) == (5000, 1)
    assert memory.ctypes.data % 4096 == 0
    assert driver.locked == {memory.ctypes.data: 5000}
    part = memory[10:20].view(np.int16)
    part[:] = 7
    del memory
    gc.collect()
    assert driver.locked
    del part
    gc.collect()
    assert not driver.locked
    assert driver.stack == 0


def test_memory_that_cannot_be_locked_is_ordinary(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    driver = use(monkeypatch, Driver({0: (True, 0)}))
    driver.refuses = True
    memory = cuda_context.page_locked(100, 0)
    memory[:] = 1
    assert "100 bytes cannot be locked for copies to GPU 0: CUDA error 2" in caplog.text
    monkeypatch.setattr(cuda_context, "driver", lambda: None)
    cuda_context.page_locked(100, 0)[:] = 1


def test_onnx_runtimes_batches_are_stacked_in_page_locked_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_identity(tmp_path, TensorProto.FLOAT)
    driver = use(monkeypatch, Driver({0: (True, 0)}))
    backend: Any = loaded(model(tmp_path, parameters={"io_binding": "true", "warmup": "off"}))
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    sent = [request(x=array), request(x=array + 1)]
    answers(backend, sent)
    assert not driver.locked, "on the CPU there is no reason to"
    backend.buffers.buffers.clear()
    backend._on_gpu = True
    for each, answer in zip([array, array + 1], answers(backend, sent), strict=True):
        np.testing.assert_array_equal(arrays(answer)["y"], each)
    (size,) = driver.locked.values()
    assert size == 32
