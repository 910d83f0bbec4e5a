"""`TensorBackend`: requests in, one stacked batch through the model, answers out.

The path of a batch: each request's rows are written from its shared memory straight into one batch buffer (`stacking`; pinned
where the model runs on a GPU), `run` is called once, and every request gets a view of its rows of the outputs. With the
parameter `batch_sizes` the model sees no other sizes than these: a batch is filled up with rows of zeros.

Requests of one batch that cannot be stacked (ragged inputs, a missing optional input) run as one batch per shape. When the
model raises, the batch is halved until only the requests that cause it fail.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.request import Failure, Instance, Request, Respond, Response
from ..core.tensor import Tensor, reshaped
from . import cuda_context
from .base import Backend, DeviceLost
from .input_check import InputCheck, brackets, is_pixels
from .memory import FittingRows, is_out_of_memory
from .options import CannotLoad, padded_sizes
from .parameters import tell_unread
from .stacking import Array, BadInput, BatchBuffers, Key, OnDevice, aligned, split
from .telling import text_of, trace_of
from .warmup import warm_up

if TYPE_CHECKING:
    from ..codecs import Pixels
    from ..core.model_config import ModelConfig, TensorSpec

__all__ = ["Array", "BadInput", "BadOutput", "TensorBackend"]

#: Shapes of which it is remembered how many rows fit.
KEPT_SHAPES = 64


class BadOutput(ValueError):
    """The model answered with tensors that cannot be handed on; halving the batch would only hide it."""


class TensorBackend(Backend):
    """A backend whose model maps a dict of stacked tensors to a dict of stacked tensors.

    Subclasses implement `open` (load the model) and `run` (call it), and may refine `allocate` and `explain`.
    `copies_single` false lets `run` see a lone request's memory itself, which it must not modify then. Input `pixels.name` may
    reach `run` as UINT8 rows, which it has to normalise. `loading` is true while the batches are warm-up's.
    """

    model: ModelConfig
    instance: Instance
    copies_single = False
    pixels: Pixels | None = None
    loading = False
    warm_up_runs = 1

    @abstractmethod
    def open(self, model: ModelConfig, instance: Instance) -> None:
        """Loads the model and brings it to the device; raises with a sentence that names the file and the reason."""

    @abstractmethod
    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Calls the model once. `inputs` lacks optional inputs that the requests lack; outputs lie in host memory."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        if not model.inputs:
            raise CannotLoad("model configuration must contain at least one input, none were specified.")
        if not model.outputs:
            raise CannotLoad("model configuration must contain at least one output, none were specified.")
        self.model, self.instance = model, instance
        self.pixels = pixels_of(model)
        self.fitting: dict[object, FittingRows] = {}  # by the shapes whose batches have not all fitted into memory
        self.sizes = padded_sizes(model, on_gpu=instance.gpu is not None)
        tell_unread(model)
        self.input_check = InputCheck(model, self.pixels)
        self.buffers = BatchBuffers(model, self.allocate, self.written, self.pixels)
        self.open(model, instance)
        self.loading = True
        warm_up(self, model, on_gpu=instance.gpu is not None, pixels=self.pixels)
        self.loading = False

    # -- what subclasses may refine ---------------------------------------------------------------------------------

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """A batch buffer of `size` bytes."""
        return aligned(size)

    def written(self, key: Key, buffer: npt.NDArray[np.uint8], start: int, stop: int) -> None:
        """Bytes `start` to `stop` of a batch buffer hold their rows; what lies before was reported before."""

    def prepared(self, requests: Sequence[Request]) -> Sequence[Request | Failure]:
        """The requests as they are to be stacked, or why one cannot be: what is done once for a whole batch."""
        return requests

    def explain(self, error: Exception) -> Failure:
        """What a client is told of an exception of `run`."""
        if isinstance(error, BadInput):
            return Failure(str(error), code="INVALID_ARG")
        text = text_of(error)
        code = "OUT_OF_MEMORY" if is_out_of_memory(error) else "INTERNAL"
        return Failure(f"{type(error).__name__}: {text}" if text else type(error).__name__, code)

    def lost_device(self) -> str:
        """Asked after `run` raised: why the device is lost to this process, so that running anything else is pointless; "" = it
        is not."""
        return cuda_context.lost() if self.instance.gpu is not None else ""

    # -- one batch --------------------------------------------------------------------------------------------------

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        """Answers every request; raises DeviceLost where the process must be replaced."""
        self.durations = (0, 0, 0)
        batches = self.model.batches
        groups: dict[object, list[tuple[int, Request]]] = {}
        began = time.monotonic_ns()
        prepared = self.prepared(requests)
        if prepared is not requests:
            self._count(time.monotonic_ns() - began, 0, 0)
        for index, request in enumerate(prepared):
            if isinstance(request, Failure):
                respond(index, Response(error=request))
                continue
            try:
                key = self._key(request)
            except BadInput as error:
                respond(index, Response(error=Failure(str(error), code="INVALID_ARG")))
            else:
                groups.setdefault(key if batches else index, []).append((index, request))
        for shapes, group in groups.items():
            fitting = self.fitting.get(shapes) if self.fitting else None
            for part in (slice(None),) if fitting is None else fitting.parts([self._rows(one) for _, one in group]):
                self._execute_group(group[part], respond, shapes)

    def _key(self, request: Request) -> object:
        """Requests of the same key are stacked; what lies on the device and what does not cannot be."""
        key = self.input_check.key(request)
        return (key, "on the device") if isinstance(request.tensors[0], OnDevice) else key

    def _is_pixels(self, name: str, datatype: str) -> bool:
        """Whether these are a codec's rows that are yet to be normalised."""
        return is_pixels(self.pixels, name, datatype)

    def _execute_group(self, group: list[tuple[int, Request]], respond: Respond, key: object) -> None:
        """Runs stackable requests as one batch; halves the batch as long as the model raises.

        A batch that does not fit the device's memory is halved too; what then fits is answered, and remembered.
        """
        failure = self._try_group(group, respond)
        if failure is None:
            return
        if failure.code == "OUT_OF_MEMORY" and self.model.batches:
            self.fitting.setdefault(key, FittingRows(self.model.name)).too_many(sum(self._rows(one) for _, one in group))
            if len(self.fitting) > KEPT_SHAPES:
                del self.fitting[next(iter(self.fitting))]
        if len(group) == 1 or failure.code == "BAD_OUTPUT":
            for index, _ in group:
                respond(index, Response(error=failure))
            return
        half = len(group) // 2
        self._execute_group(group[:half], respond, key)
        self._execute_group(group[half:], respond, key)

    def _try_group(self, group: list[tuple[int, Request]], respond: Respond) -> Failure | None:
        """Answers all of `group` from one run, or tells why none was answered. No frame of the model outlives this call."""
        try:
            answers = self._run_batch([request for _, request in group])
        except BadOutput as error:
            return Failure(str(error), code="BAD_OUTPUT")
        except Exception as error:
            if lost := self.lost_device():
                raise DeviceLost(f"model '{self.model.name}' lost its device: {lost}") from error
            failure = self.explain(error)
            failure.detail = trace_of(error)
            return failure
        for (index, _), answer in zip(group, answers, strict=True):
            respond(index, Response(answer))
        return None

    def _run_batch(self, requests: list[Request]) -> list[list[Tensor]]:
        """Stack, run, split: the outputs of each request."""
        started = time.monotonic_ns()
        rows = [self._rows(request) for request in requests]
        padded = self._padded(sum(rows), requests[0])
        inputs = {tensor.name: self._stack(tensor.name, requests, padded) for tensor in requests[0].tensors}
        stacked = time.monotonic_ns()
        outputs = self.run(inputs)
        ran = time.monotonic_ns()
        answers = self._split(self._finish(outputs, inputs, padded, sum(rows)), rows, requests)
        self._count(stacked - started, ran - stacked, time.monotonic_ns() - ran)
        return answers

    def _rows(self, request: Request) -> int:
        return request.tensors[0].shape[0] if self.model.batches else 1

    def _count(self, before: int, model: int, after: int) -> None:
        self.durations = (self.durations[0] + before, self.durations[1] + model, self.durations[2] + after)

    def _padded(self, rows: int, request: Request) -> int:
        """The rows that the model is given: the next size of the parameter `batch_sizes`, where there is one."""
        if not self.sizes or not self.model.batches or any(tensor.datatype == "BYTES" for tensor in request.tensors):
            return rows
        return next((size for size in self.sizes if size >= rows), rows)

    def _stack(self, name: str, requests: list[Request], padded: int) -> Array:
        """One input over all requests along the batch axis, in the shape that the model wants (`reshape`)."""
        array = self.buffers.stack(name, requests, padded, self.copies_single)
        return Array(array.datatype, self._reshape(self.model.input(name), array.values, inward=True))

    def _finish(self, outputs: dict[str, Array], inputs: dict[str, Array], padded: int, rows: int) -> dict[str, Array]:
        """Checks the model's outputs and gives them the shape that clients see; BadOutput names what is wrong."""
        finished = {}
        for spec in self.model.outputs:
            if spec.name not in outputs:
                found = ", ".join(outputs) or "none"
                raise BadOutput(f"model '{self.model.name}' gave no output '{spec.name}', it gave: {found}")
            output = outputs[spec.name]
            self._check_output(spec, output, padded)
            values = self._reshape(spec, output.values, inward=False)
            values = values[:rows] if padded > rows else values
            if any(np.may_share_memory(values, given.values) for given in inputs.values()):
                values = values.copy()  # the answer outlives the request's memory and the batch buffer
            finished[spec.name] = Array(output.datatype, values)
        return finished

    def _check_output(self, spec: TensorSpec, output: Array, rows: int) -> None:
        model, shape = self.model, output.values.shape
        if output.datatype != spec.datatype:
            said = f"unexpected datatype {output.datatype} for inference output '{spec.name}' of model '{model.name}'"
            raise BadOutput(f"{said}, expecting {spec.datatype}")
        if model.batches and (not shape or shape[0] != rows):
            expected = brackets((rows, *(spec.dims if spec.reshape is None else spec.reshape)))
            raise BadOutput(
                f"output '{spec.name}' of model '{model.name}' has shape {brackets(shape)} for a batch of {rows} rows, "
                f"expected {expected}: its first dimension must be the batch axis (or set max_batch_size: 0)"
            )

    def _reshape(self, spec: TensorSpec | None, values: npt.NDArray[Any], inward: bool) -> npt.NDArray[Any]:
        """Between the shape clients see (`dims`) and the model's (`reshape`): -1 stand for the same sizes, in order."""
        if spec is None or spec.reshape is None:
            return values
        here, there = (spec.dims, spec.reshape) if inward else (spec.reshape, spec.dims)
        target = reshaped(values.shape, int(self.model.batches), here, there)
        if prod(target) != values.size:
            raise BadOutput(
                f"tensor '{spec.name}' of shape {brackets(values.shape)} cannot be reshaped to {brackets(target)}"
            )
        return values.reshape(target)

    def _split(self, outputs: Mapping[str, Array], rows: list[int], requests: list[Request]) -> list[list[Tensor]]:
        """Each request's rows of the outputs it wants, as views of the batch's outputs."""
        if self.model.batches and len(requests) > 1:
            parts = [split(name, array, rows) for name, array in outputs.items()]
            answers = [list(tensors) for tensors in zip(*parts, strict=True)]
        else:
            answers = [[Tensor.from_numpy(name, array.values, array.datatype) for name, array in outputs.items()]]
        for at, request in enumerate(requests):
            if request.outputs:
                answers[at] = [tensor for tensor in answers[at] if tensor.name in request.outputs]
        return answers


def pixels_of(model: ModelConfig) -> Pixels | None:
    """What this worker is to normalise; codecs (and Pillow) are imported for models that have an image codec only."""
    if model.codec in ("", "json"):
        return None
    from ..codecs import pixels_of as of_codec

    return of_codec(model)
