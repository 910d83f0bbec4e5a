"""Running a model before it is ready: to see that its batch axis is real, and to make its first requests fast.

At load a tensor backend runs zeros of the configured shapes at batch sizes 1, 2 and `max_batch_size` on CPU, and at every
power of two up to `max_batch_size` on GPU (kernels are chosen per shape there), with CUDA graphs the largest first; each twice
where the first run only prepares: on GPU, and with TorchScript, which compiles in its second. On CPU the largest batch is left
out where its inputs alone exceed 256 MiB. The parameter `batch_sizes` names the sizes instead. A dimension of -1 is taken from
the first `model_warmup` entry, else it is 1. On a GPU, a model whose images are normalised there runs its largest batch as bytes
too, and one whose pictures are decoded there as JPEGs.
Then each `model_warmup` entry runs as Triton runs it: `batch_size` equal requests at once, `count` times.
The parameter `warmup: "off"` skips all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import LoadFailed
from ..core.request import Failure, Request, Response
from ..core.tensor import NUMPY_DTYPES, Tensor, expected_bytes, pack_bytes
from .base import Backend
from .options import flag, padded_sizes, powers_of_two

if TYPE_CHECKING:
    from ..codecs import Pixels
    from ..core.model_config import ModelConfig, TensorSpec, Warmup, WarmupInput

LARGEST_CPU_BATCH = 256 << 20
_log = logging.getLogger(__name__)

Execute = Callable[[Sequence[Request], Callable[[int, Response], None]], None]


class WarmupFailed(LoadFailed, RuntimeError):
    """The model refused a warm-up batch; it does not become ready."""


def warm_up(backend: Backend, model: ModelConfig, on_gpu: bool = False, pixels: Pixels | None = None) -> None:
    """Checks the batch axis and runs the configured entries; WarmupFailed says what is wrong and what to do."""
    if not flag(model.parameters, "warmup", default=True):
        return
    ran = check_batch_axis(backend, model, on_gpu)
    if ran and on_gpu and pixels is not None:
        specs = [replace(spec, datatype="UINT8") if spec.name == pixels.name else spec for spec in model.inputs]
        check_batch_axis(backend, replace(model, inputs=tuple(specs)), on_gpu, batch_sizes(model, on_gpu)[-1:])
    if on_gpu and pixels is not None and pixels.geometry is not None:
        run_pictures(backend, model, pixels.name)
    run_entries(backend, model)


def run_pictures(backend: Backend, model: ModelConfig, name: str) -> None:
    """Runs the largest batch of equal JPEGs, for a model whose pictures are decoded on the device."""
    from ..codecs.geometry import sample

    shape, data = (1, 1) if model.batches else (1,), pack_bytes([sample()])
    count = batch_sizes(model, on_gpu=True)[-1]
    pictures = [Request(f"warmup-{index}", [Tensor(name, "BYTES", shape, data)]) for index in range(count)]
    if (failure := _first_failure(backend, pictures)) is not None:
        raise WarmupFailed(f"model '{model.name}' failed on a warm-up batch of {count} JPEGs: {failure.message}")


def run_entries(backend: Backend, model: ModelConfig) -> None:
    """Runs each `model_warmup` entry `count` times; for any backend that takes tensors."""
    for entry in model.warmup:
        for _ in range(max(entry.count, 1)):
            failure = _first_failure(backend, entry_requests(model, entry))
            if failure is not None:
                raise WarmupFailed(f"warm-up '{entry.name}' of model '{model.name}' failed: {failure.message}")


def entry_requests(model: ModelConfig, entry: Warmup) -> list[Request]:
    """The requests of one entry: `batch_size` of one row each (0: one without a batch axis)."""
    lead = (1,) if model.batches else ()
    return [
        Request(id=f"warmup-{index}", tensors=[_entry_tensor(item, lead) for item in entry.inputs], rows=1)
        for index in range(max(entry.batch_size, 1))
    ]


def check_batch_axis(backend: Backend, model: ModelConfig, on_gpu: bool = False, sizes: Sequence[int] | None = None) -> bool:
    """Runs zeros at these batch sizes, the module\'s where none are given; False where the inputs cannot be guessed.

    WarmupFailed where the model cannot do what its configuration says.
    """
    hints = model.warmup[0].inputs if model.warmup else ()
    if unsure := [spec.name for spec in model.inputs if not _is_plain(spec, hints)]:
        _log.debug("model '%s': shapes or contents of %s are guessed for warm-up", model.name, ", ".join(unsure))
    runs = 2 if on_gpu else getattr(backend, "warm_up_runs", 1)
    wanted = list(sizes or batch_sizes(model, on_gpu))
    largest_first = on_gpu and flag(model.parameters, "cuda_graphs")
    if largest_first:
        wanted.reverse()
    for rows in [size for size in wanted for _ in range(runs)]:
        request = Request(
            id="warmup", tensors=[_sample(spec, hints, rows, model.batches) for spec in model.inputs], rows=rows
        )
        failure = _first_failure(backend, [request])
        if failure is None:
            continue
        if unsure and rows == wanted[0] and failure.code not in ("BAD_OUTPUT", "OUT_OF_MEMORY"):
            _log.warning("model '%s': no warm-up, its inputs cannot be guessed: %s", model.name, failure.message)
            return False
        raise WarmupFailed(_refusal(model, request, failure, ran_smaller=not largest_first))
    return True


def fair_batch(model: ModelConfig) -> list[Tensor]:
    """A batch by which two forms of a model can be compared: the first `model_warmup` entry's inputs, else seeded numbers.

    Numbers that are whole may be places in a table, so they are zeros. WarmupFailed where shapes are open and no entry says them.
    """
    if model.warmup:
        return entry_requests(model, model.warmup[0])[0].tensors
    if unsure := [spec.name for spec in model.inputs if not _is_plain(spec, ())]:
        raise WarmupFailed(
            f"the inputs of model '{model.name}' cannot be guessed ({', '.join(unsure)}); a model_warmup entry says what they are"
        )
    rows = min(2, model.max_batch_size) if model.batches else 1
    lead = (rows,) if model.batches else ()
    return [Tensor(spec.name, spec.datatype, (*lead, *spec.dims), _numbers(spec, lead)) for spec in model.inputs]


def _numbers(spec: TensorSpec, lead: tuple[int, ...]) -> bytes:
    dims = (*lead, *spec.dims)
    return _random(spec.datatype, dims) if spec.datatype in ("FP16", "BF16", "FP32", "FP64") else _zeros(spec.datatype, dims)


def batch_sizes(model: ModelConfig, on_gpu: bool = False) -> list[int]:
    """The batch sizes that are run at load, ascending."""
    largest = model.max_batch_size
    if not model.batches or largest == 1:
        return [1]
    if sizes := padded_sizes(model, on_gpu):
        return list(sizes)
    if on_gpu:
        return list(powers_of_two(largest))
    row = sum(expected_bytes(spec.datatype, _filled(spec, ())) or 0 for spec in model.inputs)
    return sorted({1, 2, largest} if row * largest <= LARGEST_CPU_BATCH else {1, 2})


def _refusal(model: ModelConfig, request: Request, failure: Failure, ran_smaller: bool) -> str:
    """The operator's sentence: which model, which batch, what the model said, what to do."""
    if failure.code == "BAD_OUTPUT":
        return failure.message
    shapes = ", ".join(f"'{tensor.name}' {tensor.datatype} {list(tensor.shape)}" for tensor in request.tensors)
    if request.rows > 1 and not ran_smaller:
        advice = f"it is the first that is tried: max_batch_size: {model.max_batch_size} may be more than it takes"
    elif request.rows > 1:
        advice = f"it ran smaller batches, so max_batch_size: {model.max_batch_size} is more than it takes"
    else:
        advice = "correct the declared inputs, give a model_warmup entry that it accepts"
    said = f"model '{model.name}' failed on a warm-up batch of {request.rows} rows with {shapes}: {failure.message}"
    return f'{said} ({advice}, or skip this check with the parameter warmup: "off")'


def _first_failure(backend: Backend, requests: list[Request]) -> Failure | None:
    """Executes a batch whose answers nobody needs; its first error, if any."""
    failures: list[Failure] = []

    def respond(index: int, response: Response) -> None:
        if response.error is not None:
            failures.append(response.error)

    backend.execute(requests, respond)
    return failures[0] if failures else None


def _is_plain(spec: TensorSpec, hints: Sequence[WarmupInput]) -> bool:
    """Whether zeros of a known shape are a fair input: fixed dims or a hint, and not strings."""
    return any(hint.name == spec.name for hint in hints) or (-1 not in spec.dims and spec.datatype != "BYTES")


def _filled(spec: TensorSpec, hints: Sequence[WarmupInput]) -> tuple[int, ...]:
    hint = next((hint.dims for hint in hints if hint.name == spec.name), ())
    known = hint if len(hint) == len(spec.dims) else (1,) * len(spec.dims)
    return tuple(size if size >= 0 else max(known[axis], 0) for axis, size in enumerate(spec.dims))


def _sample(spec: TensorSpec, hints: Sequence[WarmupInput], rows: int, batches: bool) -> Tensor:
    """`rows` equal rows for one input: the hinted data, else zeros (empty strings for BYTES)."""
    hint = next((hint for hint in hints if hint.name == spec.name), None)
    dims = _filled(spec, hints)
    row = _row(hint, dims) if hint is not None else _zeros(spec.datatype, dims)
    if not batches:
        return Tensor(spec.name, spec.datatype, dims, row)
    return Tensor(spec.name, spec.datatype, (rows, *dims), row * rows)


def _entry_tensor(item: WarmupInput, lead: tuple[int, ...]) -> Tensor:
    return Tensor(item.name, item.datatype, (*lead, *item.dims), _row(item, item.dims))


def _zeros(datatype: str, dims: tuple[int, ...]) -> bytes:
    size = expected_bytes(datatype, dims)
    return pack_bytes([b""] * prod(dims)) if size is None else bytes(size)


def _row(item: WarmupInput, dims: tuple[int, ...]) -> bytes:
    """The bytes of one row as the entry says; WarmupFailed where its file does not fit."""
    if item.source == "zero":
        return _zeros(item.datatype, dims)
    if item.source == "random":
        return _random(item.datatype, dims)
    try:
        data = Path(item.file).read_bytes()
    except OSError as error:
        raise WarmupFailed(f"warm-up data of input '{item.name}' cannot be read: {error}") from None
    size = expected_bytes(item.datatype, dims)
    if size is not None and len(data) != size:
        raise WarmupFailed(
            f"warm-up file '{item.file}' holds {len(data)} bytes, input '{item.name}' {list(dims)} needs {size}"
        )
    return data


def _random(datatype: str, dims: tuple[int, ...]) -> bytes:
    """Reproducible values: floats of [0, 1), small integers, booleans, short digits as strings."""
    generator = np.random.default_rng(0)
    if datatype == "BYTES":
        return pack_bytes(str(number) for number in generator.integers(0, 100, prod(dims)))
    if datatype == "BF16":
        bits = generator.random(dims, dtype=np.float32).view(np.uint32) >> np.uint32(16)
        return bits.astype(np.uint16).tobytes()
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "f":
        return generator.random(dims).astype(dtype).tobytes()
    return generator.integers(0, 2 if dtype.kind == "b" else 100, dims).astype(dtype).tobytes()
