"""Normalisation on the device: what a codec leaves undone so that the worker does it once for a whole batch.

The codec hands on uint8 rows [channels, height, width], a quarter of the bytes in the arena and over the bus, and the backend
computes `(row / 255 - mean) / std` where the model runs. In float32 and in this order of operations, the numbers are those of
the codec's own tables (`transforms.Normalize`); a model whose input is FP16 or FP64 gets them cast, as from the codec.

Clients that bring tensors still send the declared datatype. Rows of both kinds wait in one lane and fill one batch; a batch that
has both is brought to the declared datatype before the model sees it.

Which models: parameter `normalize_on_device` "auto" (default), "true" or "false". "auto" takes it wherever it can be had:
measured on one CPU core for 224 x 224 RGB, 0.31 ms a row by the codec became 0.10 ms in the codec and 0.12 ms in the worker,
and the rows are equal bit by bit there.

With the parameter `decode` "device" the codec hands on the picture itself, one string, and the backend decodes, resizes and crops
too (`backends.device_decode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.model_config import ModelConfig, TensorSpec
from ..core.tensor import NUMPY_DTYPES

if TYPE_CHECKING:
    from .geometry import Geometry

PARAMETER = "normalize_on_device"
DECODE = "decode"
#: Backends that hold a model's whole input as one tensor and so can normalise it.
BACKENDS = ("eager", "torchscript", "onnxruntime")
#: Backends that can decode on the device: those that have torch, and with it torchvision's decoder.
DECODERS = ("eager", "torchscript")


@dataclass(frozen=True)
class Pixels:
    """Input `name`, declared as `datatype`, may come as UINT8 rows; `mean` and `std` have one number or one for each channel.

    With a `geometry` pictures come undecoded, as BYTES of one element a row.
    """

    name: str
    datatype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    geometry: Geometry | None = None

    def constants(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and standard deviation, shaped to be broadcast over [channels, height, width] and over rows of it."""
        mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return mean, std

    def normalize(self, rows: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """[..., channels, height, width] in the declared datatype, on the host.

        numpy's: its large arrays lie on huge pages, which made it four times as fast as torch's here.
        """
        mean, std = self.constants()
        normalized = rows.astype(np.float32)
        normalized /= np.float32(255)
        normalized -= mean
        normalized /= std
        return normalized.astype(NUMPY_DTYPES[self.datatype], copy=False)


def obstacle(config: ModelConfig, spec: TensorSpec) -> str:
    """Why rows of this input cannot be normalised by the worker; "" where they can."""
    if config.backend not in BACKENDS:
        return f"backend '{config.backend}' runs the model's own code; expected one of {', '.join(BACKENDS)}"
    if config.sequence is not None:
        return "the model is stateful (sequence_batching)"
    if spec.reshape is not None:
        return f"input '{spec.name}' has a reshape"
    return ""


def decode_obstacle(config: ModelConfig, why_not_normalized: str) -> str:
    """Why pictures cannot be decoded by the worker; "" where they can, if it has a GPU. What is decoded there is normalised
    there."""
    if config.backend not in DECODERS:
        return (
            f"backend '{config.backend}' has no decoder on a device; expected one of {', '.join(DECODERS)}, or decode host"
        )
    if why_not_normalized:
        return f"{why_not_normalized}; leave decode at host"
    if config.parameters.get(PARAMETER) == "false":
        return f"{PARAMETER} is false, and what is decoded on the device is normalised there; leave one of the two out"
    if any(group.kind == "KIND_CPU" for group in config.instance_groups):
        return "an instance runs on the CPU, which has no such decoder; set KIND_GPU in instance_group, or decode host"
    return ""
