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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..core.request import Failure, Instance, Request, Respond, Response
from ..core.tensor import Tensor
from . import cuda_context
from .base import Backend, DeviceLost, Launched
from .input_check import InputCheck, is_pixels
from .launching import SPACES, Done, Group, Groups, LaunchedBatch, Started, Work
from .memory import FittingRows, is_out_of_memory
from .options import CannotLoad, padded_sizes
from .outputs import BadOutput, finished, reshape, split_outputs
from .parameters import tell_unread
from .stacking import Array, BadInput, BatchBuffers, Key, OnDevice, aligned
from .telling import text_of, trace_of
from .warmup import warm_up

if TYPE_CHECKING:
    from ..codecs import Pixels
    from ..core.model_config import ModelConfig

__all__ = ["Array", "BadInput", "BadOutput", "TensorBackend"]

#: Shapes of which it is remembered how many rows fit.
KEPT_SHAPES = 64


class TensorBackend(Backend):
    """A backend whose model maps a dict of stacked tensors to a dict of stacked tensors.

    Subclasses implement `open` (load the model) and `run` (call it), and may refine `allocate` and `explain`.
    `copies_single` false lets `run` see a lone request's memory itself, which it must not modify then. Input `pixels.name` may
    reach `run` as UINT8 rows, which it has to normalise. `loading` is true while the batches are warm-up's. Where `launches` is
    true, `launch` returns before the device is done, and the next batch is launched meanwhile (`launching`).
    """

    model: ModelConfig
    instance: Instance
    copies_single = False
    pixels: Pixels | None = None
    loading = False
    warm_up_runs = 1
    launches = False
    launched: LaunchedBatch | None = None
    _ran = 0  # when the latest outputs were there: what was launched before has run since then

    @abstractmethod
    def open(self, model: ModelConfig, instance: Instance) -> None:
        """Loads the model and brings it to the device; raises with a sentence that names the file and the reason."""

    @abstractmethod
    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Calls the model once. `inputs` lacks optional inputs that the requests lack; outputs lie in host memory."""

    def launch(self, inputs: dict[str, Array]) -> Work:
        """Begins what `run` does, without waiting for a device."""
        return Done(self.run(inputs))

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
        self.spaces = [BatchBuffers(model, self.allocate, self.written, self.pixels) for _ in range(SPACES)]
        self.use(0)
        self.open(model, instance)
        self.loading = True
        warm_up(self, model, on_gpu=instance.gpu is not None, pixels=self.pixels)
        self.loading = False

    # -- what subclasses may refine ---------------------------------------------------------------------------------

    def use(self, space: int) -> None:
        """The next batch is stacked in this one of its `SPACES`."""
        self.space, self.buffers = space, self.spaces[space]

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
        self.execute_groups(self._groups(requests, respond), respond)

    def begin(self, requests: Sequence[Request], respond: Respond) -> Launched | None:
        if not self.launches:
            return super().begin(requests, respond)
        self.durations = (0, 0, 0)
        before = self.launched
        beside = before is not None and not before.ended
        self.use(SPACES - 1 - before.space if before is not None and beside else 0)
        self.launched = LaunchedBatch(self, self._groups(requests, respond), respond, beside)
        return self.launched

    def _groups(self, requests: Sequence[Request], respond: Respond) -> Groups:
        """The requests that can be stacked, by what they have in common; answers those that cannot be run at all."""
        batches = self.model.batches
        groups: Groups = {}
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
        return groups

    def execute_groups(self, groups: Groups, respond: Respond) -> None:
        for shapes, group in groups.items():
            for part in self.parts(shapes, group):
                self.execute_group(part, respond, shapes)

    def parts(self, shapes: object, group: Group) -> Iterator[Group]:
        """What of a group is run at once: all, or what has fitted into the device's memory."""
        fitting = self.fitting.get(shapes) if self.fitting else None
        if fitting is None:
            yield group
            return
        for part in fitting.parts([self._rows(one) for _, one in group]):
            yield group[part]

    def _key(self, request: Request) -> object:
        """Requests of the same key are stacked; what lies on the device and what does not cannot be."""
        key = self.input_check.key(request)
        return (key, "on the device") if isinstance(request.tensors[0], OnDevice) else key

    def _is_pixels(self, name: str, datatype: str) -> bool:
        """Whether these are a codec's rows that are yet to be normalised."""
        return is_pixels(self.pixels, name, datatype)

    def execute_group(self, group: Group, respond: Respond, key: object, started: Started | None = None) -> None:
        """Runs stackable requests as one batch, which may have been `started`; halves it as long as the model raises.

        A batch that does not fit the device's memory is halved too; what then fits is answered, and remembered.
        """
        failure = self._try_group(group, respond, started)
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
        self.execute_group(group[:half], respond, key)
        self.execute_group(group[half:], respond, key)

    def _try_group(self, group: Group, respond: Respond, started: Started | None) -> Failure | None:
        """Answers all of `group` from one run, or tells why none was answered. No frame of the model outlives this call."""
        try:
            answers = self._answers(started or self.start([request for _, request in group]))
        except BadOutput as error:
            return Failure(str(error), code="BAD_OUTPUT")
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            self.raise_if_lost(error)
            failure = self.explain(error)
            failure.detail = trace_of(error)
            return failure
        for (index, _), answer in zip(group, answers, strict=True):
            respond(index, Response(answer))
        return None

    def raise_if_lost(self, error: Exception) -> None:
        """Raises DeviceLost where, after this error, nothing can run in this process any more."""
        if lost := self.lost_device():
            raise DeviceLost(f"model '{self.model.name}' lost its device: {lost}") from error

    def start(self, requests: list[Request]) -> Started:
        """Stacks the requests and launches them."""
        began = time.monotonic_ns()
        rows = [self._rows(request) for request in requests]
        padded = self._padded(sum(rows), requests[0])
        inputs = {tensor.name: self._stack(tensor.name, requests, padded) for tensor in requests[0].tensors}
        stacked = time.monotonic_ns()
        self._count(stacked - began, 0, 0)
        return Started(requests, rows, padded, inputs, stacked, self.launch(inputs))

    def _answers(self, started: Started) -> list[list[Tensor]]:
        """Waits for the outputs and splits them: those of each request."""
        requests, rows, inputs = started.requests, started.rows, started.inputs
        outputs = started.work.outputs()
        ran = time.monotonic_ns()
        answers = split_outputs(self.model, finished(self.model, outputs, inputs, started.padded, sum(rows)), rows, requests)
        self._count(0, ran - max(started.stacked, self._ran), time.monotonic_ns() - ran)
        self._ran = ran
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
        return Array(array.datatype, reshape(self.model, self.model.input(name), array.values, inward=True))


def pixels_of(model: ModelConfig) -> Pixels | None:
    """What this worker is to normalise; codecs (and Pillow) are imported for models that have an image codec only."""
    if model.codec in ("", "json"):
        return None
    from ..codecs import pixels_of as of_codec

    return of_codec(model)
