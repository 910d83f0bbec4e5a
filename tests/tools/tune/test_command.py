"""`jitney tune`: what is tried, what counts as best, what is written, and the whole of it on a small model."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.server.repository.triton.repository import TritonRepository
from jitney.tests.fakes.serving import write_model
from jitney.tools.tune import command as tune
from jitney.tools.tune.accuracy import Accuracy, compared
from jitney.tools.tune.report import bars, table, write_chart
from jitney.tools.tune.search import ROUNDS, Candidate, Plan, Search, join
from jitney.tools.tune.trial import Point, Result, Subject, TrialFailed, run_trial
from jitney.tools.tune.variants import PLAIN, Arrangement, Variant, arrangements, plain_parameters, variants
from jitney.tools.tune.worker import requests_of

ONE, TWO = Arrangement(1, 2), Arrangement(2, 1)
FAST, NEAR, ODD, SHORT = (
    Variant("fast", {"freeze": "true"}),
    Variant("near", {"io_binding": "true"}),
    Variant("odd", {"compile": "true"}),
    Variant("short", {"autocast": "bf16"}),
)


def config(backend: Any = "torchscript", dims: tuple[int, ...] = (3, 8, 8), **fields: Any) -> ModelConfig:
    inputs, outputs = (TensorSpec("x", "FP32", dims),), (TensorSpec("y", "FP32", (1,)),)
    return ModelConfig("m", "1", backend, max_batch_size=8, inputs=inputs, outputs=outputs, **fields)


def candidate(variant: Variant, rates: list[float], way: Arrangement = ONE, apart: float = 0.0) -> Candidate:
    results = [Result({1: Point(rate / 2, 0.01, 0.02), 8: Point(rate, 0.1, 0.2)}) for rate in rates]
    return Candidate(variant, way, results, Accuracy(apart, 3 * apart, 31, 32))


def searched(*candidates: Candidate, tolerance: float | None = None) -> Search:
    asked = tolerance is not None
    plan = Plan(Subject(Path("r"), "m"), [PLAIN], [ONE], [1, 8], 10.0, tolerance or 1e-3, takes_fewer_bits=asked)
    search = Search(plan, lambda text: None)
    search.candidates = list(candidates)
    return search


# -- what is tried ---------------------------------------------------------------------------------------------------------


def test_variants_are_for_the_backend_the_device_and_the_inputs() -> None:
    def names(model: ModelConfig, gpu: bool = False, compiler: bool = True) -> list[str]:
        return [variant.name for variant in variants(model, gpu, compiler)[0]]

    assert names(config())[0] == "plain"
    assert "optimized channels_last" in names(config())
    assert not any("channels_last" in name for name in names(config(dims=(4,))))
    assert not any("cuda" in name or "fp16" in name for name in names(config("eager")))
    assert any("cuda_graphs" in name for name in names(config("eager"), gpu=True))
    assert "compile" in names(config("eager"))
    assert names(config("onnxruntime")) == ["plain", "io_binding", "operators side by side"]
    assert "conv search heuristic" in names(config("onnxruntime"), gpu=True)
    assert "codec normalises" in names(config(codec="image_classifier"))
    assert "codec normalises" not in names(config(codec="image_classifier", parameters={"decode": "device"}))
    assert [name for name in names(config("eager")) if "fused" in name] == ["fused", "fused channels_last"]
    assert variants(config("exported"), False, True) == ([PLAIN], [])
    assert variants(config("eager"), False, False)[1] == ["compile: there is no C++ compiler (g++ or clang++)"]
    found, left_out = variants(config("python"), False, True)
    assert (found, "runs the model's own code" in left_out[0]) == ([PLAIN], True)


def test_sixteen_bits_are_tried_where_the_device_is_quick_at_them() -> None:
    def short(on_gpu: bool, bf16: bool) -> set[str]:
        return {v.parameters["autocast"] for v in variants(config("eager"), on_gpu, True, bf16)[0] if v.fewer_bits}

    assert short(on_gpu=False, bf16=True) == {"bf16"}
    assert short(on_gpu=False, bf16=False) == set()
    assert short(on_gpu=True, bf16=False) == {"bf16", "fp16"}
    left_out = variants(config(), False, True, False)[1]
    assert left_out == ["bf16: this processor has no instructions for it (avx512_bf16, amx_bf16)"]


def test_what_is_configured_now_is_tried_too_and_the_plain_model_has_none_of_it() -> None:
    mine = {"freeze": "true", "batch_sizes": "4"}
    model = config(parameters={**mine, "mean": "0", "NUM_THREADS": "3"})
    assert variants(model, False, True)[0][-1] == Variant("as configured", mine)
    assert plain_parameters(model) == {"mean": "0"}
    same = config(parameters={"freeze": "true", "autocast": "off"})
    assert not any(variant.name == "as configured" for variant in variants(same, False, True)[0])


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, ["1 × 1"]),
        (2, ["1 × 2", "2 × 1"]),
        (6, ["1 × 6", "2 × 3", "6 × 1"]),
        (8, ["1 × 8", "2 × 4", "4 × 2", "8 × 1"]),
    ],
)
def test_arrangements_use_the_cores_that_there_are(cores: int, expected: list[str]) -> None:
    assert [str(way) for way in arrangements(cores, on_gpu=False)] == expected
    assert [way.workers for way in arrangements(cores, on_gpu=True)] == [1, 2, 3]


# -- what counts as best -----------------------------------------------------------------------------------------------------


def test_the_fastest_wins_by_a_margin_that_few_rounds_widen() -> None:
    plain = candidate(PLAIN, [100, 101, 99])
    assert searched(plain, candidate(FAST, [103, 104, 104])).best() is plain
    assert searched(plain, faster := candidate(FAST, [107, 108, 107])).best() is faster
    assert searched(plain, candidate(FAST, [107])).best() is plain
    assert searched(plain, clearly := candidate(FAST, [120])).best() is clearly


def test_answers_that_differ_are_shown_and_not_chosen() -> None:
    plain, odd = candidate(PLAIN, [100] * ROUNDS), candidate(ODD, [300] * ROUNDS, apart=5e-3)
    search = searched(plain, odd)
    assert search.best() is plain
    assert search.faster_but_different() is odd
    odd.accuracy = Accuracy(1e-4)
    assert searched(plain, odd).best() is odd
    assert searched(plain, odd).faster_but_different() is None


def test_fewer_bits_are_shown_and_chosen_only_within_a_bound_that_was_asked_for() -> None:
    plain, short = candidate(PLAIN, [100] * ROUNDS), candidate(SHORT, [300] * ROUNDS, apart=1e-6)
    near = candidate(NEAR, [120] * ROUNDS)
    search = searched(plain, near, short)
    assert search.best() is near
    assert search.faster_but_different() is short
    plan = Plan(Subject(Path("r"), "m"), [PLAIN], [ONE], [1, 8], 10.0, 1e-3)
    assert tune._why_not(short, plan) == (
        "short, 1 × 2 would give 300.0/s, but its answers differ by at most 3.0e-06 (1.0e-06 of the largest output); top-1 is "
        "the same for 31 of 32 rows: it computes in fewer bits, which is chosen only where --tolerance BOUND asks for it."
    )
    short.accuracy = Accuracy(0.02)
    assert searched(plain, near, short, tolerance=0.05).best() is short
    assert searched(plain, near, short, tolerance=0.01).best() is near
    asked = Plan(Subject(Path("r"), "m"), [PLAIN], [ONE], [1, 8], 10.0, 0.01, takes_fewer_bits=True)
    assert tune._why_not(short, asked).endswith("; --tolerance accepts more than 0.01.")


def test_one_odd_round_does_not_decide() -> None:
    noisy = candidate(FAST, [90, 500, 91])
    assert noisy.rate == 91
    assert noisy.spread == pytest.approx(410 / 91)
    assert noisy.best_batch == 8


def test_what_helped_is_joined_once() -> None:
    both = join([candidate(FAST, [120]), candidate(NEAR, [130])], [PLAIN, FAST, NEAR])
    assert both is not None
    assert (both.name, dict(both.parameters)) == ("fast + near", {"freeze": "true", "io_binding": "true"})
    assert join([candidate(FAST, [120])], [PLAIN, FAST]) is None
    covering = Variant("covering", {**FAST.parameters, **NEAR.parameters})
    assert join([candidate(FAST, [120]), candidate(covering, [130])], [PLAIN, FAST, covering]) is None


# -- what is shown and written -----------------------------------------------------------------------------------------------


def test_table_bars_and_chart(tmp_path: Path) -> None:
    plain, fast = candidate(PLAIN, [100, 110]), candidate(FAST, [200, 200], TWO, apart=2e-7)
    broken = Candidate(ODD, ONE, failed="no such thing")
    lines = table([plain, fast, broken], fast, [1, 8]).splitlines()
    assert (
        lines[3]
        == "| **best** | fast | 2 × 1 | 100.0/s | 200.0/s | 10.00 | 100.0 (200.0) | 6.0e-07 | 2.0e-07 | 31/32 | 2 (0%) |"
    )
    assert lines[4].endswith("failed: no such thing |")
    assert table([plain, Candidate(NEAR, ONE)], plain, [1, 8]).splitlines()[-1] == "|  | near | 1 × 2 | no time |"
    assert bars([plain, fast, broken], fast).count("█") == 21 + 40
    write_chart(tmp_path / "c.svg", "m", [plain, fast, broken], fast)
    assert (tmp_path / "c.svg").read_text().startswith("<svg")


def test_settings_undo_what_the_best_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "usable_cores", lambda: 2)
    model = config("eager", parameters={"channels_last": "true", "compile": "1", "autocast": "off"})
    assert tune.settings_of(model, candidate(SHORT, [1], TWO), False) == {
        "channels_last": "false",
        "compile": "false",
        "autocast": "bf16",
    }
    assert tune.settings_of(config(), candidate(PLAIN, [1], Arrangement(1, 1)), False) == {"INTRA_OP_THREAD_COUNT": "1"}
    assert tune.settings_of(config("onnxruntime"), candidate(PLAIN, [1], Arrangement(1, 1)), False) == {
        "intra_op_thread_count": "1"
    }
    present = config(parameters={"NUM_THREADS": "7"})
    assert tune.settings_of(present, candidate(PLAIN, [1], TWO), False) == {"NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "nobody"),
        (["linear", "--batch-sizes", "1,99"], "--batch-sizes must be between 1 and the model's max_batch_size, 4"),
        (["linear", "--batch-sizes", "many"], "numbers separated by commas"),
        (["linear", "--seconds", "0"], "--seconds must be above 0"),
        (["linear", "--body", "/does/not/exist"], "/does/not/exist does not exist"),
        (["linear", "--body", "."], "--body: there is no file in ."),
        (["linear", "--tolerance", "-1"], "--tolerance at least 0"),
        (["linear", "--shape", "x"], "a shape is NAME:D,D"),
    ],
)
def test_what_makes_no_sense_is_told(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tune.main([*arguments, "--model-repository", str(repository)]) == 1
    assert words in capsys.readouterr().err


# -- the real thing -----------------------------------------------------------------------------------------------------------

CONFIG = """# Ours.
platform: "onnxruntime_onnx" max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 64 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 64 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]  # one
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One ONNX model: a layer of 64 numbers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), "w")
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", sides[0], sides[1], initializer=[weight])
    folder = tmp_path / "models" / "linear" / "1"
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    (folder.parent / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "models"


def test_a_model_is_tuned_and_its_file_keeps_the_rest(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    arguments = ["linear", "--model-repository", str(repository), "--seconds", "12", "--batch-sizes", "1,4"]
    assert tune.main([*arguments, "--plot", str(tmp_path / "chart.svg"), "--write"]) == 0
    assert time.monotonic() - began < 60
    out, err = capsys.readouterr()
    assert "linear (onnxruntime)" in out
    assert re.search(r"\| plain \| 1 × \d+ \| [\d,.]+/s \| [\d,.]+/s \|", out)
    assert "io_binding" in out
    assert "◀ best" in out
    assert "of 12 s] plain" in err
    assert (tmp_path / "chart.svg").is_file()
    written = (repository / "linear" / "config.pbtxt").read_text()
    assert written.startswith(CONFIG.split("instance_group")[0])
    assert "# one" in written
    best = re.search(r"(\d+) worker\(s\) of (\d+) thread", out)
    assert best is not None
    (model,) = TritonRepository([repository]).read("linear")
    assert model.instance_groups[0].count == int(best[1])


BROKEN = (
    "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        raise RuntimeError('it is broken')\n"
)
STUCK = "import time\ntime.sleep(600)\n"
PBTXT = """backend: "pytorch" runtime: "model.py" max_batch_size: 2
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def test_a_model_that_cannot_run_is_told_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path, "broken", PBTXT, BROKEN)
    assert tune.main(["broken", "--model-repository", str(tmp_path), "--seconds", "5"]) == 1
    assert "it is broken" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path, "broken", PBTXT, BROKEN)
    assert tune.main(["borken", "--model-repository", str(tmp_path)]) == 1
    assert "model 'borken' is not found; the model repository has: broken" in capsys.readouterr().err


def test_a_model_that_hangs_is_ended(tmp_path: Path) -> None:
    write_model(tmp_path, "stuck", PBTXT, STUCK)
    began = time.monotonic()
    with pytest.raises(TrialFailed, match=r"took more than .* s to load the model"):
        run_trial(Subject(tmp_path, "stuck"), PLAIN, ONE, [1], 0.1, limit=1.0)
    assert time.monotonic() - began < 20


def test_what_a_model_prints_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    source = BROKEN.replace("raise RuntimeError('it is broken')", "return x").replace("\n", "\nprint('{}')\n", 1)
    write_model(tmp_path, "talker", PBTXT, source)
    result = run_trial(Subject(tmp_path, "talker"), PLAIN, TWO, [1, 2], 0.1, limit=100.0, with_answers=True)
    assert set(result.points) == {1, 2}
    assert all(point.rate > 0 and point.p95 >= point.median > 0 for point in result.points.values())
    assert result.answers["y"].shape == (32, 2)


CLASSIFIER = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(),
                                          torch.nn.Linear(8 * 14 * 14, 10))
    def forward(self, x):
        return self.layers(x)
"""
PICTURES = """backend: "pytorch" runtime: "model.py" max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 16, 16 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 10 ] } ]
"""


def classifier(folder: Path, more: str = "") -> None:
    import torch

    from jitney.backends.eager import build

    write_model(folder, "net", PICTURES + more, CLASSIFIER)
    torch.save(build(folder / "net/1/model.py", "tuned").state_dict(), folder / "net/1/model.pt")


def test_sixteen_bits_and_fusing_are_compared_with_the_plain_model(tmp_path: Path) -> None:
    """bf16 really differs, by what 8 bits make of it; a fused model by rounding; the best class is hardly ever another."""
    classifier(tmp_path)

    def answers(**parameters: str) -> Any:
        trial = Variant("t", parameters)
        return run_trial(Subject(tmp_path, "net"), trial, ONE, [1], 0.01, limit=100.0, with_answers=True).answers

    plain = answers()
    assert plain["y"].shape == (32, 10)
    short, fused = compared(answers(autocast="bf16"), plain), compared(answers(fuse="true"), plain)
    assert 1e-4 < short.relative < 0.05
    assert short.absolute == pytest.approx(short.relative * np.abs(plain["y"]).max())
    assert fused.relative < 1e-5
    assert fused.top1 == "32/32"
    assert short.rows == 32
    assert short.agreeing >= 28


def test_the_sample_is_what_the_operator_gives(tmp_path: Path) -> None:
    """Files of a folder with --body, else the entries of model_warmup, else made-up numbers."""
    inputs = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3, 16, 16 ] random_data: true } }'
    warmup = f'model_warmup [ {{ name: "one" batch_size: 1 {inputs} }}, {{ name: "two" batch_size: 1 {inputs} }} ]\n'
    classifier(tmp_path / "models", warmup)
    (config_,) = TritonRepository([tmp_path / "models"]).read("net")
    job = Subject(tmp_path / "models", "net").job(PLAIN, ONE)
    assert len(requests_of(config_, job, 32)[0]) == 2
    given = tmp_path / "given"
    given.mkdir()
    for number in range(3):
        (given / f"{number}.json").write_text(str(np.full((3, 16, 16), number).tolist()))
    job = Subject(tmp_path / "models", "net", body=given).job(PLAIN, ONE)
    found, seconds = requests_of(config_, job, 2)
    assert [float(request.tensors[0].numpy().mean()) for request in found] == [0.0, 1.0]
    assert seconds > 0
