"""`MicroBatching`: a batch in small pieces, so that one piece is prepared while another one is in the model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

STAGES = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Stands in for a BaseHandler's `handle`: `self.handle = MicroBatching(self, micro_batch_size=4)`.

    Each stage has threads of its own, `parallelism` of them ({"preprocess": 2}; 1 where not named). Results keep the order
    of the requests. An exception in a piece fails the batch.
    """

    def __init__(self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._parallelism: dict[str, int] = {}
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        return self._parallelism

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int] | None) -> None:
        wanted = dict(parallelism or {})
        for stage, threads in wanted.items():
            if stage not in STAGES or not isinstance(threads, int) or threads < 1:
                raise ValueError(f"parallelism {stage}: {threads}; expected {', '.join(STAGES)} with a whole number from 1")
        self.shutdown()
        self._parallelism = {stage: wanted.get(stage, 1) for stage in STAGES}

    def shutdown(self) -> None:
        """Ends the threads; the next batch starts new ones."""
        for pool in self._pools.values():
            pool.shutdown(wait=True)
        self._pools = {}

    def __call__(self, data: list[Any], context: Any) -> Any:
        return self.handle(data, context)

    def handle(self, data: list[Any], context: Any) -> Any:
        """A BaseHandler's `handle` in pieces; descriptions and explanations are not split."""
        start = time.perf_counter()
        self.handler.context = context
        if self.handler._is_describe():
            output = [self.handler.describe_handle()]
        elif self.handler._is_explain():
            output = self.handler.explain_handle(self.handler.preprocess(data), data)
        else:
            output = self._pipeline(data)
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - start) * 1000, 2), None, "ms")
        return output

    def _pipeline(self, data: list[Any]) -> list[Any]:
        size = self.micro_batch_size
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"micro_batch_size is {size!r}; expected a whole number from 1")
        if not self._pools:
            self._pools = {stage: ThreadPoolExecutor(count, f"micro-{stage}") for stage, count in self._parallelism.items()}
        pieces = [self._start(data[at : at + size]) for at in range(0, len(data), size)]
        return [element for piece in pieces for element in piece.result()]

    def _start(self, piece: list[Any]) -> Future[list[Any]]:
        done: Future[list[Any]] = Future()
        self._advance(done, STAGES, piece)
        return done

    def _advance(self, done: Future[list[Any]], stages: Sequence[str], value: Any) -> None:
        """Runs the next stage of a piece in that stage's threads, and the rest after it; nobody waits in between."""
        if not stages:
            done.set_result(value)
            return

        def next_stage(step: Future[Any]) -> None:
            error = step.exception()
            if error is not None:
                done.set_exception(error)
            else:
                self._advance(done, stages[1:], step.result())

        self._pools[stages[0]].submit(getattr(self.handler, stages[0]), value).add_done_callback(next_stage)
