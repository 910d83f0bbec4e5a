"""`MicroBatching`: a batch in small pieces, so that one piece is prepared while another one is in the model."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

HANDLER_METHODS = ["preprocess", "inference", "postprocess"]
PROFILER_AVAILABLE = True  # torch has it since 1.8.1


class MicroBatching:
    """Stands in for a BaseHandler's `handle`: `self.handle = MicroBatching(self, micro_batch_size=4)`.

    Each stage has threads of its own, `parallelism` of them ({"preprocess": 2}; 1 where not named). Results keep the order
    of the requests. An exception in a piece fails the batch.
    """

    def __init__(self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.thread_local_data = threading.local()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._parallelism: dict[str, int] = {}
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int] | None) -> None:
        """Stages that are not named keep their threads."""
        wanted = dict(parallelism or {})
        for stage, threads in wanted.items():
            if stage not in HANDLER_METHODS or not isinstance(threads, int) or threads < 1:
                raise ValueError(
                    f"parallelism {stage}: {threads}; expected {', '.join(HANDLER_METHODS)} with a whole number from 1"
                )
        self.shutdown()
        self._parallelism = {stage: wanted.get(stage, self._parallelism.get(stage, 1)) for stage in HANDLER_METHODS}

    def shutdown(self) -> None:
        """Ends the threads; the next batch starts new ones."""
        for pool in self._pools.values():
            pool.shutdown(wait=True)
        self._pools = {}

    def get_micro_batch_idx(self) -> int | None:
        """Inside a stage: the index of the piece, from 0; None elsewhere."""
        return getattr(self.thread_local_data, "micro_batch_idx", None)

    def __call__(self, data: list[Any], context: Any) -> Any:
        """A BaseHandler's `handle` in pieces; descriptions, explanations and what the profiler watches are not split."""
        start = time.perf_counter()
        self.handler.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self.handler._infer_with_profiler(data=data)
        elif self.handler._is_describe():
            output = [self.handler.describe_handle()]
        elif self.handler._is_explain():
            output = self.handler.explain_handle(self.handler.preprocess(data), data)
        else:
            output = self.handle(data)
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - start) * 1000, 2), None, "ms")
        return output

    def handle(self, data: list[Any]) -> list[Any]:
        """The three stages in pieces."""
        size = self.micro_batch_size
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"micro_batch_size is {size!r}; expected a whole number from 1")
        if not self._pools:
            self._pools = {stage: ThreadPoolExecutor(count, f"micro-{stage}") for stage, count in self._parallelism.items()}
        pieces = [self._start(index, data[at : at + size]) for index, at in enumerate(range(0, len(data), size))]
        return [element for piece in pieces for element in piece.result()]

    def _start(self, index: int, piece: list[Any]) -> Future[list[Any]]:
        done: Future[list[Any]] = Future()
        self._advance(done, index, HANDLER_METHODS, piece)
        return done

    def _advance(self, done: Future[list[Any]], index: int, stages: Sequence[str], value: Any) -> None:
        """Runs the next stage of a piece in that stage's threads, and the rest after it; nobody waits in between."""
        if not stages:
            done.set_result(value)
            return

        def next_stage(step: Future[Any]) -> None:
            error = step.exception()
            if error is not None:
                done.set_exception(error)
            else:
                self._advance(done, index, stages[1:], step.result())

        self._pools[stages[0]].submit(self._run, index, stages[0], value).add_done_callback(next_stage)

    def _run(self, index: int, stage: str, value: Any) -> Any:
        self.thread_local_data.micro_batch_idx = index
        return getattr(self.handler, stage)(value)


# -- for programs that run stages on threads of their own -----------------------------------------------------------------


@dataclass
class WorkerThread:
    """A thread that runs `execute_call`, and the event that ends it."""

    event: threading.Event
    thread: threading.Thread


def execute_call(
    in_queue: queue.Queue[tuple[int, Any]],
    out_queue: queue.Queue[tuple[int, Any]],
    handle: Callable[[Any], Any],
    thread_local_data: threading.local,
    event: threading.Event,
) -> None:
    """Handles (index, data) after (index, data), until the event is set."""
    while not event.is_set():
        try:
            index, data = in_queue.get(timeout=0.5)
        except queue.Empty:
            continue
        thread_local_data.micro_batch_idx = index
        out_queue.put((index, handle(data)))
