"""What is asked of CUDA itself: whether this process can still use its GPUs, and memory that copies to them are fast from.

After a device-side assert, an illegal access or a failure of the hardware, every call on that context fails until the process
ends. What the model's code raises then says little of it: cuBLAS, cuDNN and ONNX Runtime raise plain errors for lost contexts
and harmless ones alike, and models catch them and answer with errors of their own. `cudaDeviceSynchronize` returns the error of
a lost context each time it is asked, and success on a sound one.

torch is asked where it has begun to use a GPU (also ROCm's); then the driver, for every library that shares a device's primary
context (ONNX Runtime, CuPy, Numba, TensorFlow). Neither is loaded or initialised by asking.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .telling import text_of

#: Codes of errors that leave a context usable: invalid value, out of memory, not initialised, invalid configuration, no context,
#: too many resources asked for by a launch. Those from 900 to 999 are about the capture of graphs.
PASSING = frozenset({1, 2, 3, 9, 201, 701})
_CAPTURE = range(900, 1000)
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: for all contexts
_NO_LOAD = os.RTLD_LAZY | 4  # RTLD_NOLOAD, which the module os lacks: a handle of a library that is in the process already
_log = logging.getLogger(__name__)


def lost() -> str:
    """What CUDA says of a context of this process that is lost, "" where there is none. Waits for the device's work.

    Threads: any; a graph must not be being captured.
    """
    return _lost_to_torch() or _lost_to_driver(driver())


def driver() -> Any:
    """The driver's library, None where nothing in this process has loaded it."""
    try:
        return ctypes.CDLL("libcuda.so.1", mode=_NO_LOAD)
    except OSError:
        return None


def is_passing(code: int | None) -> bool:
    """Whether an error of this code leaves the context usable; None = its code is not known."""
    return code is not None and (code in PASSING or code in _CAPTURE)


def _lost_to_torch() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return ""
    except RuntimeError as error:
        return "" if is_passing(getattr(error, "error_code", None)) else _first_line(error)
    return ""


# -- page-locked memory ----------------------------------------------------------------------------------------------------


def page_locked(size: int, gpu: int) -> npt.NDArray[np.uint8]:
    """`size` bytes that a copy to a GPU reads at the bus's speed, without torch; ordinary memory where CUDA locks none.

    For a process that uses the GPU already. Locked pages are let go with the array and all views of it.
    """
    whole: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)  # pages of their own
    cuda = driver()
    if cuda is not None:
        code = _in_context(cuda, gpu, lambda: _register(cuda, whole))
        if code:
            _log.warning(
                "%d bytes cannot be locked for copies to GPU %d: CUDA error %d: %s", size, gpu, code, _name(cuda, code)
            )
        else:
            let_go = weakref.finalize(whole, _in_context, cuda, gpu, partial(_unregister, cuda, whole.ctypes.data))
            let_go.atexit = False  # the end of the process does it
    return whole[:size]


def _register(cuda: Any, memory: npt.NDArray[np.uint8]) -> int:
    return int(cuda.cuMemHostRegister_v2(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes), _PORTABLE))


def _unregister(cuda: Any, address: int) -> int:
    return int(cuda.cuMemHostUnregister(ctypes.c_void_p(address)))


# -- the driver ------------------------------------------------------------------------------------------------------------


def _lost_to_driver(cuda: Any) -> str:
    if cuda is None:
        return ""
    for device in _active(cuda):
        code = _in_context(cuda, device, cuda.cuCtxSynchronize)
        if code and not is_passing(code):
            return f"CUDA error {code}: {_name(cuda, code)}"
    return ""


def _active(cuda: Any) -> Iterator[int]:
    """The devices whose primary context is in use; asking makes none."""
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)):
        return  # the driver is not initialised
    for ordinal in range(count.value):
        device, flags, active = ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
        if cuda.cuDeviceGet(ctypes.byref(device), ordinal):
            continue
        if not cuda.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active)) and active.value:
            yield device.value


def _in_context(cuda: Any, device: int, call: Callable[[], Any]) -> int:
    """The code of a call in the primary context of a device, or of getting there."""
    context, before = ctypes.c_void_p(), ctypes.c_void_p()
    if code := int(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)):
        return code
    try:
        if code := int(cuda.cuCtxPushCurrent_v2(context)):
            return code
        code = int(call())
        cuda.cuCtxPopCurrent_v2(ctypes.byref(before))
        return code
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _name(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    return text.value.decode() if text.value else "unknown"


def _first_line(error: Exception) -> str:
    return text_of(error).split("\n", 1)[0] or type(error).__name__
