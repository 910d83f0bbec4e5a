"""Two batches on a device at once: each in a space of its own, whatever goes wrong with the other.

The device of these tests reads a batch's memory as late as it may: when its outputs are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.backends.base import DeviceLost, Launched
from jitney.backends.batch import TensorBackend
from jitney.backends.launching import Work
from jitney.backends.stacking import Array
from jitney.core.model_config import ModelConfig
from jitney.core.request import Failure, Instance, Request, Response
from jitney.tests.fakes.tensors import arrays, config, request, spec


class LateWork:
    """Doubles its input when it is waited for."""

    def __init__(self, device: Late, inputs: dict[str, Array]) -> None:
        self._device, self._inputs, self.over = device, inputs, False

    def is_over(self) -> bool:
        return self.over

    def outputs(self) -> dict[str, Array]:
        values = self._inputs["x"].values
        self._device.at_end(values)
        return {"y": Array("FP32", values * 2)}


class Late(TensorBackend):
    """`at_launch` and `at_end` see the rows of each run, and raise what the device is to report then."""

    copies_single = True
    warm_up_runs = 1
    lost = ""

    def open(self, model: ModelConfig, instance: Instance) -> None:
        self.at_launch: Callable[[Any], None] = lambda rows: None
        self.at_end: Callable[[Any], None] = lambda rows: None
        self.works: list[LateWork] = []
        self.launches = True

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return self.launch(inputs).outputs()

    def launch(self, inputs: dict[str, Array]) -> Work:
        self.at_launch(inputs["x"].values)
        self.works.append(LateWork(self, inputs))
        return self.works[-1]

    def lost_device(self) -> str:
        return self.lost


class Batch:
    """What was begun for these rows, one request each, and its answers."""

    def __init__(self, backend: TensorBackend, *rows: Sequence[float]) -> None:
        self.rows, self.got = rows, dict[int, Response]()
        requests: list[Request] = [request(x=np.array([row], np.float32)) for row in rows]
        self.launched = backend.begin(requests, self._respond)

    def _respond(self, index: int, response: Response) -> None:
        assert index not in self.got
        self.got[index] = response

    def end(self) -> list[Any]:
        """Each request's answer, or what it failed with."""
        assert not self.got and isinstance(self.launched, Launched)
        self.launched.end()
        assert sorted(self.got) == list(range(len(self.rows)))
        return [
            self.got[n].error.message if self.got[n].error else arrays(self.got[n])["y"][0].tolist()  # type: ignore[union-attr]
            for n in range(len(self.rows))
        ]

    def doubled(self) -> list[list[float]]:
        return [[2 * value for value in row] for row in self.rows]


@pytest.fixture
def backend(tmp_path: Path) -> Late:
    made = Late()
    made.load(config(tmp_path, "eager", [spec("x", -1)], [spec("y", -1)], 8), Instance("m_0", "KIND_CPU", None, threads=1))
    made.works.clear()
    return made


def test_the_next_batch_is_stacked_while_the_device_still_reads_the_last_one(backend: Late) -> None:
    first = Batch(backend, [1, 2], [3, 4])
    for n in range(5, 50):
        second = Batch(backend, [n, n + 1], [n + 2, n + 3])
        assert first.end() == first.doubled()
        first = second
    assert first.end() == first.doubled()
    assert len(backend.works) == 46
    assert all(not buffers.buffers or len(buffers.buffers) == 1 for buffers in backend.spaces)


def test_one_after_the_other_needs_one_space(backend: Late) -> None:
    for n in range(3):
        batch = Batch(backend, [n, n])
        assert batch.end() == batch.doubled()
    assert [len(buffers.buffers) for buffers in backend.spaces] == [1, 0]


def test_it_is_over_when_the_device_says_so(backend: Late) -> None:
    batch = Batch(backend, [1])
    assert batch.launched is not None and not batch.launched.is_over()
    backend.works[0].over = True
    assert batch.launched.is_over()
    assert batch.end() == [[2]]


def test_the_time_in_the_model_is_counted_once(backend: Late) -> None:
    backend.at_end = lambda rows: time.sleep(0.05)
    began = time.monotonic_ns()
    first, second = Batch(backend, [1]), Batch(backend, [2])
    first.end()
    of_first = backend.durations
    second.end()
    of_second = backend.durations
    assert min(of_first[1], of_second[1]) >= 50_000_000
    assert of_first[1] + of_second[1] <= time.monotonic_ns() - began


def refuse(bad: float) -> Callable[[Any], None]:
    def check(rows: Any) -> None:
        if bad in rows:
            raise RuntimeError(f"no {bad:g}")

    return check


@pytest.mark.parametrize("when", ["at_launch", "at_end"])
@pytest.mark.parametrize("which", [0, 1])
def test_what_the_model_refuses_fails_alone_and_harms_no_other_batch(backend: Late, when: str, which: int) -> None:
    setattr(backend, when, refuse(7))
    rows = [([1, 1], [2, 2], [3, 3], [4, 4]), ([5, 5], [6, 6], [8, 8], [9, 9])]
    rows[which][2][:] = [7, 7]
    batches = [Batch(backend, *rows[0]), Batch(backend, *rows[1])]
    for number, batch in enumerate(batches):
        expected: list[Any] = batch.doubled()
        if number == which:
            expected[2] = "RuntimeError: no 7"
        assert batch.end() == expected
    again = Batch(backend, [1, 2])
    assert again.end() == [[2, 4]]


def test_a_refused_batch_ends_while_the_next_one_is_on_the_device(backend: Late) -> None:
    backend.at_launch = refuse(7)
    first, second = Batch(backend, [1], [2]), Batch(backend, [7], [3])
    assert first.end() == [[2], [4]]
    third = Batch(backend, [4], [5])
    assert second.end() == ["RuntimeError: no 7", [6]]
    assert third.end() == [[8], [10]]


def test_several_shapes_run_when_the_batch_is_ended(backend: Late) -> None:
    first = Batch(backend, [1], [2])
    mixed = Batch(backend, [1], [2, 3], [4])
    assert len(backend.works) == 1
    assert mixed.launched is not None and mixed.launched.is_over()
    assert first.end() == first.doubled()
    third = Batch(backend, [5], [6])
    assert mixed.end() == mixed.doubled()
    assert third.end() == third.doubled()


def test_a_request_that_fits_nothing_is_answered_at_once(backend: Late) -> None:
    got: list[Any] = []
    bad = request(x=np.zeros((1, 2, 2), np.float32))
    launched = backend.begin([bad, request(x=np.ones((1, 2), np.float32))], lambda *answer: got.append(answer))
    assert [(index, isinstance(answer.error, Failure)) for index, answer in got] == [(0, True)]
    assert launched is not None
    launched.end()
    assert [(index, answer.error) for index, answer in got[1:]] == [(1, None)]


def test_where_the_device_has_no_room_for_a_second_batch_it_gets_one_after_the_other(
    backend: Late, caplog: pytest.LogCaptureFixture
) -> None:
    def full(rows: Any) -> None:
        raise MemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    first = Batch(backend, [1], [2])
    backend.at_launch = full
    with caplog.at_level("INFO"):
        second = Batch(backend, [3], [4])
    assert "the device has no room for a second one" in caplog.text
    backend.at_launch = lambda rows: None
    assert first.end() == first.doubled()
    third = Batch(backend, [5], [6])
    assert third.launched is None and len(third.got) == 2
    assert second.end() == second.doubled()
    assert not backend.fitting, "nothing was learnt about how many rows fit"


def test_a_batch_that_does_not_fit_by_itself_says_nothing_about_a_second_one(backend: Late) -> None:
    def full(rows: Any) -> None:
        if len(rows) > 2:
            raise MemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    backend.at_launch = full
    batch = Batch(backend, [1], [2], [3], [4])
    assert batch.end() == batch.doubled()
    assert backend.launches
    assert backend.fitting, "what fits was not remembered"


@pytest.mark.parametrize("when", ["at_launch", "at_end"])
def test_a_lost_device_is_told_at_once(backend: Late, when: str) -> None:
    def lose(rows: Any) -> None:
        backend.lost = "device-side assert"
        raise RuntimeError("a kernel failed")

    first = Batch(backend, [1])
    setattr(backend, when, lose)
    if when == "at_launch":
        with pytest.raises(DeviceLost, match="device-side assert"):
            Batch(backend, [2])
    else:
        with pytest.raises(DeviceLost, match="device-side assert"):
            first.end()
        assert first.got == {}
