"""Batch times: the fit, the requests, and a bare model in its own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jitney.core.model_config import TensorSpec
from jitney.tools.bench.batch_time import BareModel, fit, parse_shapes, sizes, synthetic
from jitney.tools.dev import device_model


def test_a_line_is_found_again() -> None:
    line = fit({rows: 0.003 + 0.0002 * rows for rows in (1, 2, 4, 8)})
    assert (line.t0, line.a, line.r2) == pytest.approx((0.003, 0.0002, 1.0))
    assert line(32) == pytest.approx(0.0094)
    assert "3.00 ms + 0.200 ms × b" in str(line)


def test_noise_is_averaged_and_told() -> None:
    rng = np.random.default_rng(0)
    line = fit({rows: 0.003 + 0.0002 * rows + rng.normal(0, 0.0003) for rows in range(1, 65)})
    assert (line.t0, line.a) == pytest.approx((0.003, 0.0002), rel=0.1)
    assert 0.8 < line.r2 < 1.0


def test_weights_count() -> None:
    points = {1: 1.0, 2: 2.0, 3: 9.0}
    assert fit(points, {1: 1.0, 2: 1.0, 3: 1e-9})(3) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("points", [{1: 0.001, 8: 0.016}, {1: 0.005, 8: 0.005}, {1: 0.006, 8: 0.004}, {4: 0.004}])
def test_a_line_never_goes_below_nothing(points: dict[int, float]) -> None:
    line = fit(points)
    assert line.t0 >= 0
    assert line.a > 0
    assert np.mean([line(rows) - t for rows, t in points.items()]) == pytest.approx(0, abs=0.0005)


@pytest.mark.parametrize("points", [{}, {0: 1.0}, {1: 0.0}])
def test_points_that_cannot_be_are_refused(points: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="a line needs"):
        fit(points)


def test_sizes_end_with_the_largest() -> None:
    assert [sizes(n) for n in (0, 1, 2, 8, 24)] == [[1], [1], [1, 2], [1, 2, 4, 8], [1, 2, 4, 8, 16, 24]]


def test_synthetic_tensors_have_the_declared_shapes() -> None:
    specs = [TensorSpec("x", "FP32", (2, -1)), TensorSpec("n", "INT64", (3,)), TensorSpec("o", "FP32", (1,), optional=True)]
    x, n = synthetic(specs, {"x": [2, 5]}, (4,))
    assert (x.shape, n.shape) == ((4, 2, 5), (4, 3))
    assert 0 <= x.numpy().min() < x.numpy().max() < 1
    assert not n.numpy().any()


@pytest.mark.parametrize(
    ("spec", "shapes", "text"),
    [
        (TensorSpec("x", "FP32", (-1,)), {}, "--shape x:D,D"),
        (TensorSpec("x", "BYTES", (1,)), {}, "--body FILE"),
        (TensorSpec("x", "FP32", (1,)), {"y": [1]}, "no input is called y; expected x"),
    ],
)
def test_open_shapes_are_asked_for(spec: TensorSpec, shapes: dict[str, list[int]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        synthetic([spec], shapes, (1,))


def test_shapes_are_read() -> None:
    assert parse_shapes(["a:1,2", "b:c:3"]) == {"a": [1, 2], "b:c": [3]}
    for text in ("a", ":1", "a:0", "a:x"):
        with pytest.raises(ValueError, match="a shape is NAME:D,D"):
            parse_shapes([text])


def test_the_bare_model_is_timed_in_its_own_process(tmp_path: Path) -> None:
    device_model.build(tmp_path, 0.004, 0.002, rows=4)
    with BareModel(tmp_path, device_model.NAME) as model:
        times, again = model.measure(0.2), model.measure(0.1)
    assert list(times) == list(again) == [1, 2, 4]
    assert all(times[rows] >= 0.004 + 0.002 * rows for rows in times)
    assert times[4] > times[1]


TALKATIVE = """
import argparse, os, sys

import triton_python_backend_utils as pb_utils

print("imported with", argparse.ArgumentParser().parse_args([] if sys.argv == [""] else ["--wrong"]))

class TritonPythonModel:
    def execute(self, requests):
        print("a batch of", len(requests), flush=True)
        os.write(1, b"without Python\\n")
        assert sys.stdin.read() == ""
        {more}
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(r, "X").as_numpy())])
                for r in requests]
"""


def talkative(folder: Path, more: str = "pass") -> Path:
    """A Python model that prints, reads and parses arguments."""
    tensor = '[ {{ name: "{0}" data_type: TYPE_FP32 dims: [ 1 ] }} ]'
    (folder / "talkative" / "1").mkdir(parents=True)
    (folder / "talkative" / "1" / "model.py").write_text(TALKATIVE.format(more=more))
    text = f'backend: "python" max_batch_size: 2 input {tensor.format("X")} output {tensor.format("Y")}'
    (folder / "talkative" / "config.pbtxt").write_text(text)
    return folder


def test_what_a_model_prints_and_reads_is_kept_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with BareModel(talkative(tmp_path), "talkative") as model:
        assert list(model.measure(0.05)) == list(model.measure(0.05)) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_what_a_model_prints_before_it_fails_is_told(tmp_path: Path) -> None:
    talkative(tmp_path, more="raise KeyError('in the end')")
    with (
        BareModel(tmp_path, "talkative") as model,
        pytest.raises(RuntimeError, match=r"(?s)status 1: .*a batch of 1.*in the end"),
    ):
        model.measure(0.1)


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        BareModel(tmp_path, "nothing") as model,
        pytest.raises(RuntimeError, match=r"bare model failed with status 1: .*nothing"),
    ):
        model.measure(0.1)
