"""What a `TensorBackend` launches on a device, and ends later: the device has the next batch before it is done with the last one.

A worker that has the next batch already stacks and launches it while the last one runs, and answers the last one then. Each of
the two has a space of its own: buffers, and what mirrors them on the device. Everything that the device does for the two is
queued on one stream, apart from the copies of their inputs, so what they share otherwise (a graph's tensors) is used in turn.

A batch that cannot be launched (one of several shapes, one that must be run in parts, one over which the model raised) is run
as a whole when it is ended; until then it has no work queued.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..core.request import Request, Respond
from .base import Launched
from .memory import is_out_of_memory
from .stacking import Array
from .telling import text_of

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

#: Batches that have work on the device at the same time.
SPACES = 2

Group = list[tuple[int, Request]]
"""Requests that can be stacked, each with its index in the batch."""
Groups = dict[object, Group]

_log = logging.getLogger(__name__)


class Work(Protocol):
    """What `TensorBackend.launch` returns."""

    def is_over(self) -> bool:
        """Whether the outputs are there."""

    def outputs(self) -> dict[str, Array]:
        """Waits for the outputs, in host memory; raises what the device reports."""


class Done:
    """Work that was done at once."""

    __slots__ = ("_outputs",)

    def __init__(self, outputs: dict[str, Array]) -> None:
        self._outputs = outputs

    def is_over(self) -> bool:
        return True

    def outputs(self) -> dict[str, Array]:
        return self._outputs


@dataclass(slots=True)
class Started:
    """One run of the model on its way: `rows` of each request, `padded` rows of all. `stacked`: nanoseconds, monotonic."""

    requests: list[Request]
    rows: list[int]
    padded: int
    inputs: dict[str, Array]
    stacked: int
    work: Work


class Launcher(Protocol):
    """What a `TensorBackend` is to its launched batches."""

    model: ModelConfig
    durations: tuple[int, int, int]
    space: int
    launches: bool

    def use(self, space: int) -> None: ...
    def parts(self, shapes: object, group: Group) -> Iterator[Group]: ...
    def start(self, requests: list[Request]) -> Started: ...
    def execute_groups(self, groups: Groups, respond: Respond) -> None: ...
    def execute_group(self, group: Group, respond: Respond, key: object, started: Started | None) -> None: ...
    def raise_if_lost(self, error: Exception) -> None: ...


class LaunchedBatch(Launched):
    """A batch whose groups of requests `backend` is to run and answer; `beside` another one that is not ended yet."""

    def __init__(self, backend: Launcher, groups: Groups, respond: Respond, beside: bool) -> None:
        self._backend, self._groups, self._respond, self._beside = backend, groups, respond, beside
        self.space, self.ended = backend.space, False
        self._started = self._start()
        self._durations = backend.durations

    def _start(self) -> Started | None:
        """None where nothing was launched. The model's exceptions are for `end`, when nothing else runs; DeviceLost is not."""
        parts = [part for shapes, group in self._groups.items() for part in self._backend.parts(shapes, group)]
        if len(parts) != 1:
            return None
        try:
            return self._backend.start([request for _, request in parts[0]])
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises
            self._backend.raise_if_lost(error)
            if self._beside and is_out_of_memory(error):
                self._backend.launches = False
                _log.info(
                    "model '%s' runs one batch after the other: the device has no room for a second one (%s)",
                    self._backend.model.name, text_of(error).partition("\n")[0],
                )  # fmt: skip
            return None

    def is_over(self) -> bool:
        return self._started is None or self._started.work.is_over()

    def end(self) -> None:
        backend, groups, started = self._backend, self._groups, self._started
        backend.durations, self._groups, self._started = self._durations, {}, None
        backend.use(self.space if started is not None or backend.launches else 0)  # for what is run again, too
        try:
            if started is None:
                backend.execute_groups(groups, self._respond)
            else:
                ((key, group),) = groups.items()
                backend.execute_group(group, self._respond, key, started)
        finally:
            self.ended = True
