"""What runs before a model is ready, and what makes it refuse to become so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.backends.base import Backend
from jitney.backends.warmup import WarmupFailed, batch_sizes, entry_requests, run_entries, warm_up
from jitney.codecs import Pixels
from jitney.core.model_config import ModelConfig, Warmup, WarmupInput
from jitney.core.request import Failure, Instance, Request, Respond, Response
from jitney.tests.fakes.tensors import config, spec


class Recorder(Backend):
    """Keeps copies of what it executes; refuses batches of more than `limit` rows and whatever `refuses` says."""

    def __init__(self, limit: int = 1 << 30, refuses: str = "") -> None:
        self.batches: list[list[tuple[str, tuple[int, ...], bytes]]] = []
        self.limit, self.refuses = limit, refuses

    def load(self, model: ModelConfig, instance: Instance) -> None:
        pass

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        self.batches.append([(t.name, t.shape, bytes(t.data)) for item in requests for t in item.tensors])
        for index, item in enumerate(requests):
            failed = self.refuses or ("too many rows" if item.rows > self.limit else "")
            respond(index, Response(error=Failure(failed)) if failed else Response())


def model(tmp_path: Path, *dims: int, datatype: str = "FP32", rows: int = 8, **fields: Any) -> ModelConfig:
    return config(tmp_path, "eager", [spec("x", *dims, datatype=datatype)], [spec("y", 1)], rows, **fields)


def entry(name: str = "warm", batch_size: int = 2, count: int = 1, **fields: Any) -> Warmup:
    return Warmup(name, batch_size, (WarmupInput("x", fields.pop("datatype", "FP32"), (3,), **fields),), count)


def test_one_two_and_the_largest_batch_run(tmp_path: Path) -> None:
    backend = Recorder()
    warm_up(backend, model(tmp_path, 3))
    assert [batch[0][1] for batch in backend.batches] == [(1, 3), (2, 3), (8, 3)]
    assert not any(any(batch[0][2]) for batch in backend.batches)


@pytest.mark.parametrize(("rows", "expected"), [(0, [1]), (1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_on_gpu_powers_of_two_run(tmp_path: Path, rows: int, expected: list[int]) -> None:
    assert batch_sizes(model(tmp_path, 3, rows=rows), on_gpu=True) == expected


def test_on_gpu_each_size_runs_twice_and_the_largest_as_bytes_too(tmp_path: Path) -> None:
    backend, pixels = Recorder(), Pixels("x", "FP32", (0.5,), (0.5,))
    warm_up(backend, model(tmp_path, 3, 2, 2, rows=4), on_gpu=True, pixels=pixels)
    assert [batch[0][1][0] for batch in backend.batches] == [1, 1, 2, 2, 4, 4, 4, 4]
    assert [len(batch[0][2]) for batch in backend.batches[-3:]] == [4 * 12 * 4, 4 * 12, 4 * 12]
    on_cpu = Recorder()
    warm_up(on_cpu, model(tmp_path, 3, 2, 2, rows=4), pixels=pixels)
    assert [len(batch[0][2]) for batch in on_cpu.batches] == [12 * 4, 2 * 12 * 4, 4 * 12 * 4]


def test_bytes_are_not_tried_where_the_inputs_cannot_be_guessed(tmp_path: Path) -> None:
    backend, pixels = Recorder(refuses="too small"), Pixels("x", "FP32", (0.5,), (0.5,))
    warm_up(backend, model(tmp_path, 3, -1, -1, rows=4), on_gpu=True, pixels=pixels)
    assert len(backend.batches) == 1


def test_a_model_that_prepares_in_its_first_run_runs_twice(tmp_path: Path) -> None:
    backend: Any = Recorder()
    backend.warm_up_runs = 2
    warm_up(backend, model(tmp_path, 3, rows=4))
    assert [batch[0][1][0] for batch in backend.batches] == [1, 1, 2, 2, 4, 4]


def test_a_huge_largest_batch_is_left_out_on_cpu(tmp_path: Path) -> None:
    assert batch_sizes(model(tmp_path, 3, 1024, 1024, rows=64)) == [1, 2]


def test_without_a_batch_axis_the_complete_shape_runs_once(tmp_path: Path) -> None:
    backend = Recorder()
    warm_up(backend, model(tmp_path, 2, 3, rows=0))
    assert [batch[0][1] for batch in backend.batches] == [(2, 3)]


def test_the_parameter_switches_it_off(tmp_path: Path) -> None:
    backend = Recorder(refuses="anything")
    warm_up(backend, model(tmp_path, 3, parameters={"warmup": "off"}))
    assert not backend.batches
    with pytest.raises(ValueError, match="failed to convert warmup 'maybe'"):
        warm_up(backend, model(tmp_path, 3, parameters={"warmup": "maybe"}))


def test_a_largest_batch_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WarmupFailed, match=r"warm-up batch of 8 rows with 'x' FP32 \[8, 3\]: too many rows .*max_batch_size: 8"
    ):
        warm_up(Recorder(limit=4), model(tmp_path, 3))


def test_a_model_that_refuses_plain_zeros_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WarmupFailed, match=r"'x' FP32 \[1, 3\]: no zeros .*correct the declared inputs"):
        warm_up(Recorder(refuses="no zeros"), model(tmp_path, 3))


@pytest.mark.parametrize(("dims", "datatype"), [((-1,), "FP32"), ((1,), "BYTES")])
def test_guessed_inputs_are_no_reason_to_refuse(tmp_path: Path, dims: tuple[int, ...], datatype: str) -> None:
    backend = Recorder(refuses="too short")
    warm_up(backend, model(tmp_path, *dims, datatype=datatype))
    assert len(backend.batches) == 1


def test_open_dimensions_come_from_the_first_entry(tmp_path: Path) -> None:
    backend = Recorder()
    warm_up(backend, model(tmp_path, -1, warmup=(entry(source="random"),)))
    assert [batch[0][1] for batch in backend.batches] == [(1, 3), (2, 3), (8, 3), (1, 3)]
    row = backend.batches[0][0][2]
    assert backend.batches[1][0][2] == row * 2


def test_entries_run_as_often_as_they_say(tmp_path: Path) -> None:
    backend = Recorder()
    warm_up(backend, model(tmp_path, 3, warmup=(entry(batch_size=4, count=3),)))
    assert [len(batch) for batch in backend.batches[3:]] == [4, 4, 4]


def test_an_entry_reads_its_file(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(np.arange(3, dtype=np.float32).tobytes())
    (one,) = entry_requests(model(tmp_path, 3), entry(batch_size=0, source="file", file=str(file)))
    assert one.tensors[0].numpy().tolist() == [[0.0, 1.0, 2.0]]
    file.write_bytes(b"short")
    with pytest.raises(WarmupFailed, match=r"holds 5 bytes, input 'x' .* needs 12"):
        entry_requests(model(tmp_path, 3), entry(source="file", file=str(file)))


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "BF16", "FP64", "BYTES"])
def test_random_data_of_every_kind_has_the_right_size(tmp_path: Path, datatype: str) -> None:
    (one, _) = entry_requests(model(tmp_path, 3, datatype=datatype), entry(source="random", datatype=datatype))
    assert one.tensors[0].numpy().shape == (1, 3)


def test_a_failing_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(WarmupFailed, match="warm-up 'odd' of model 'm' failed: cannot"):
        run_entries(Recorder(refuses="cannot"), model(tmp_path, 3, warmup=(entry("odd"),)))
