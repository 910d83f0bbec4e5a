"""MicroBatching: pieces, order, threads, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jitney.backends.compat.ts.context import Context, RequestProcessor
from jitney.backends.compat.ts.handler_utils.micro_batching import MicroBatching
from jitney.backends.compat.ts.metrics import sink
from jitney.tests.fakes.handler_metrics import made_metrics


class Steps:
    """preprocess adds 1, inference doubles, postprocess makes text; notes the pieces and threads it sees."""

    def __init__(self) -> None:
        self.pieces: list[int] = []
        self.threads: set[str] = set()
        self.context: Any = None
        self.handle = MicroBatching(self, 2, {"preprocess": 2})

    def preprocess(self, rows: list[int]) -> list[int]:
        self.pieces.append(len(rows))
        self.threads.add(threading.current_thread().name.rpartition("_")[0])
        return [row + 1 for row in rows]

    def inference(self, rows: list[int]) -> list[int]:
        self.threads.add(threading.current_thread().name.rpartition("_")[0])
        return [row * 2 for row in rows]

    def postprocess(self, rows: list[int]) -> list[str]:
        if 0 in rows:
            raise ValueError("zero")
        return [str(row) for row in rows]

    def explain_handle(self, prepared: list[int], raw: list[int]) -> list[tuple[str, list[int], list[int]]]:
        return [("explained", prepared, raw)]

    def describe_handle(self) -> str:
        return "described"

    def _is_explain(self) -> bool:
        return bool(self.context.get_request_header(0, "explain") == "True")

    def _is_describe(self) -> bool:
        return bool(self.context.get_request_header(0, "describe") == "True")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    metrics: list[dict[str, Any]] = []
    monkeypatch.setattr(sink, "_emit", metrics.append)
    return metrics


@pytest.fixture
def context(sent: list[Any]) -> Context:
    return Context("m", "", None, 8, None, "", metrics=made_metrics("m"))


@pytest.fixture
def steps() -> Iterator[Steps]:
    made = Steps()
    yield made
    made.handle.shutdown()


def test_pieces_keep_the_order(steps: Steps, context: Context, sent: list[Any]) -> None:
    assert steps.handle(list(range(7)), context) == [str((n + 1) * 2) for n in range(7)]
    assert sorted(steps.pieces) == [1, 2, 2, 2]
    assert steps.threads == {"micro-preprocess", "micro-inference"}
    assert [metric["name"] for metric in sent] == ["HandlerTime"]
    assert steps.handle([], context) == []


def test_stages_overlap(context: Context) -> None:
    """The second piece is prepared while the first is in the model: each waits for the other to get there."""
    meeting = threading.Barrier(2, timeout=10)

    class Meeting(Steps):
        def preprocess(self, rows: list[int]) -> list[int]:
            if rows == [1]:
                meeting.wait()
            return rows

        def inference(self, rows: list[int]) -> list[int]:
            if rows == [0]:
                meeting.wait()
            return [row + 1 for row in rows]

    steps = Meeting()
    steps.handle.micro_batch_size = 1
    assert steps.handle([0, 1], context) == ["1", "2"]
    steps.handle.shutdown()


def test_stages_know_their_piece(context: Context) -> None:
    class Numbered(Steps):
        def postprocess(self, rows: list[int]) -> Any:
            return [(row, self.handle.get_micro_batch_idx()) for row in rows]

    steps = Numbered()
    assert [index for _, index in steps.handle([5, 6, 7], context)] == [0, 0, 1]
    assert steps.handle.handle([5]) == [(12, 0)]  # without a context: the stages only
    assert steps.handle.get_micro_batch_idx() is None
    steps.handle.shutdown()


def test_the_profiler_watches_the_whole_batch(steps: Steps, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    vars(steps)["_infer_with_profiler"] = lambda data: (data, "profiler")
    assert steps.handle([1, 2, 3], context) == [1, 2, 3]


def test_an_error_fails_the_batch_and_the_next_one_works(steps: Steps, context: Context) -> None:
    with pytest.raises(ValueError, match="zero"):
        steps.handle([5, -1, 6], context)
    assert steps.handle([5], context) == ["12"]


def test_explanations_and_descriptions_are_not_split(steps: Steps, context: Context) -> None:
    context.request_processor = [RequestProcessor({"explain": "True"})]
    assert steps.handle([1, 2, 3], context) == [("explained", [2, 3, 4], [1, 2, 3])]
    context.request_processor = [RequestProcessor({"describe": "True"})]
    assert steps.handle([1], context) == ["described"]


def test_parallelism_is_checked_and_can_change(steps: Steps, context: Context) -> None:
    assert steps.handle.parallelism == {"preprocess": 2, "inference": 1, "postprocess": 1}
    steps.handle.parallelism = {"inference": 3}
    assert steps.handle.parallelism == {"preprocess": 2, "inference": 3, "postprocess": 1}
    assert steps.handle([1], context) == ["4"]
    for wrong in ({"nonsense": 1}, {"inference": 0}, {"inference": "2"}):
        with pytest.raises(ValueError, match="whole number from 1"):
            steps.handle.parallelism = wrong  # type: ignore[assignment]
    steps.handle.micro_batch_size = 0
    with pytest.raises(ValueError, match="micro_batch_size is 0"):
        steps.handle([1], context)
