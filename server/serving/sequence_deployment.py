"""`SequenceDeployment`: a model with `sequence_batching`. A sequence's requests go to one worker, in order, one at a time.

Who waits for what the pure `batching.sequence` decides. It is told which workers there are (`place`) and which batches are over
(`finished`), both with the dispatcher's lock held. A worker is given its next batch after the answers of the one before; one
whose model answers when it pleases (decoupled) as soon as `execute` has returned (`returned`), which a sequence's own next
request does not.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import cast

from ...core.call import Call
from ...core.errors import InvalidRequest, WorkerDied
from ...core.model_config import SEQUENCE_HEADERS, ModelConfig
from ...core.request import Request
from ...core.sequence_spec import SequenceSpec
from ..batching.dispatch import Queue
from ..batching.item import Batch, Item
from ..batching.sequence_queue import SequenceBatch, SequenceBatcher, SequenceItem
from ..workers.running_calls import BatchReport
from ..workers.status import Seat
from .deployment import Options
from .ordering import OrderedAnswers
from .worker_deployment import WorkerDeployment

#: Triton's request flags, as the parameter `triton_flags` has them.
_START, _END = 1, 2


class SequenceDeployment(WorkerDeployment):
    """A stateful model version in worker processes. InvalidConfig where its `sequence_batching` cannot work.

    A request's sequence comes in its parameters `triton_sequence_id` and `triton_flags`, which no client can set by name; to
    an archive in its headers (`HandlerSpec.sequence_headers`). Its worker learns its slot from `triton_slot`.
    """

    def __init__(self, config: ModelConfig, options: Options) -> None:
        self._spec = SequenceSpec.of(config)
        self._headers = config.handler.sequence_headers if config.handler is not None else SEQUENCE_HEADERS
        self._batches: dict[Call, SequenceBatch] = {}  # by their first call
        super().__init__(config, options)
        if self._spec.preserve_ordering:
            self._ordered = OrderedAnswers()

    def _make_batcher(self) -> Queue:
        self._sequences = SequenceBatcher(self._spec, self.config.max_batch_size, self.config.name)
        return self._sequences

    def _make_item(self, call: Call, priority: int, alone: bool) -> Item:
        request = call.request
        sequence, start, end = self._told(request) if self.config.handler is None else self._told_by_headers(request)
        return SequenceItem(
            call,
            request.rows,
            self._key(request),
            call.times.arrived / 1e9,
            call.deadline,
            sequence=sequence,
            start=start,
            end=end,
        )

    def _told(self, request: Request) -> tuple[int | str, bool, bool]:
        """A request's sequence, whether it begins and whether it ends it, as Triton's clients say it."""
        sequence, flags = request.parameters.get("triton_sequence_id", 0), request.parameters.get("triton_flags", 0)
        if isinstance(sequence, float) or not isinstance(flags, int):
            raise InvalidRequest(
                f"a sequence id is a number or a string, its flags are a number; got {sequence!r}, {flags!r}"
            )
        if sequence:
            self._spec.check_id(self.config.name, sequence)
        return sequence, bool(flags & _START), bool(flags & _END)

    def _told_by_headers(self, request: Request) -> tuple[str, bool, bool]:
        """The same as TorchServe's clients say it. Who names no sequence begins one of a new name, which the handler is told.

        That a request begins its sequence is for the handler alone: one of an unknown sequence begins it anyway.
        """
        named, begins, ends = self._headers
        given = {name.lower(): value for name, value in request.headers.items()}
        sequence = given.get(named.lower(), "")
        if not sequence:
            sequence = f"ts-seq-{uuid.uuid4()}"
            request.headers = {**request.headers, named: sequence, begins: "true"}
        return sequence, False, given.get(ends.lower(), "").lower() == "true"

    def _expiry(self, arrived: float, priority: int, timeout_us: int) -> float | None:
        """Never: Triton's queue policies are the dynamic batcher's."""
        return None

    def _run(self, batch: Batch, calls: list[Call]) -> None:
        leaving = cast(SequenceBatch, batch)
        for item in cast(list[SequenceItem], leaving.items):
            request = item.payload.request
            request.parameters = {**request.parameters, "triton_slot": item.slot}
        self._batches[calls[0]] = leaving
        self.pool.execute_on(cast(Seat, leaving.seat), calls)

    def _batch_returned(self, calls: Sequence[Call]) -> None:
        batch = self._batches[calls[0]]
        self.dispatcher.update(lambda: self._sequences.returned(batch))

    def _batch_done(self, report: BatchReport) -> None:
        super()._batch_done(report)
        batch = self._batches.pop(report.calls[0])

        def over() -> None:
            self._look()
            self._sequences.finished(batch, time.monotonic(), report.left_out)

        self.dispatcher.update(over)

    def scale(self, workers: int, *, retry: bool = False) -> None:
        super().scale(workers, retry=retry)
        self.dispatcher.update(self._look)  # no sequence begins in a worker that is leaving

    def _worker_idle(self) -> None:
        self.dispatcher.update(self._look)

    def _workers_changed(self) -> None:
        super()._workers_changed()
        self.dispatcher.update(self._look)

    def _look(self) -> None:
        """Which workers there are; with the dispatcher's lock held, so that no older view follows a newer one."""
        self._sequences.place(self.pool.seats(), time.monotonic())

    def _expired(self, item: Item) -> None:
        lost = cast(SequenceItem, item).lost
        if lost:
            self._abandon(item, WorkerDied(lost))
        else:
            super()._expired(item)
