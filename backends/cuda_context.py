"""Whether this process can still use its GPUs: CUDA is asked, not the text of an error.

After a device-side assert, an illegal access or a failure of the hardware, every call on that context fails until the process
ends. What the model's code raises then says little of it: cuBLAS, cuDNN and ONNX Runtime raise plain errors for lost contexts
and harmless ones alike, and models catch them and answer with errors of their own. `cudaDeviceSynchronize` returns the error of
a lost context each time it is asked, and success on a sound one.

torch is asked where it has begun to use a GPU (also ROCm's); then the driver, for every library that shares a device's primary
context (ONNX Runtime, CuPy, Numba, TensorFlow). Neither is loaded or initialised by asking.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

from .telling import text_of

#: Codes of errors that leave a context usable: invalid value, out of memory, not initialised, invalid configuration, no context,
#: too many resources asked for by a launch. Those from 900 to 999 are about the capture of graphs.
PASSING = frozenset({1, 2, 3, 9, 201, 701})
_CAPTURE = range(900, 1000)
_NO_LOAD = os.RTLD_LAZY | 4  # RTLD_NOLOAD, which the module os lacks: a handle of a library that is in the process already


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


def _lost_to_driver(cuda: Any) -> str:
    if cuda is None:
        return ""
    for device in _active(cuda):
        code = _synchronize(cuda, device)
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


def _synchronize(cuda: Any, device: int) -> int:
    """CUDA's code for waiting for all of a device's work in its primary context."""
    context, before = ctypes.c_void_p(), ctypes.c_void_p()
    if code := int(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)):
        return code
    try:
        if code := int(cuda.cuCtxPushCurrent_v2(context)):
            return code
        code = int(cuda.cuCtxSynchronize())
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
