"""The table of parameters: true to the code and to its page, and each parameter answers as the plain model does."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jitney.backends import parameters
from jitney.backends.torchscript import quiet_jit
from jitney.core.model_config import ModelConfig
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

ROOT = Path(__file__).parents[2]
#: What asks for a parameter: a reader of `options`, or the mapping itself.
_ASKED = re.compile(
    r"(?:flag|integer|choice|optional_flag)\(\s*(?:model\.)?parameters,\s*\(?((?:\"[\w.]+\"(?:,\s*)?)+)"
    r"|options\.(?:flag|choice|whole|number|numbers|size)\(\"([\w.]+)\""
    r"|(?<!request\.)parameters\.get\(\"([\w.]+)\""
)
#: Asked for by backends and codecs that the table is not about.
_OTHERS = {"ngrams", "vocabulary"}


def test_the_page_repeats_the_table() -> None:
    assert parameters.TABLE in (ROOT / "docs" / "parameters.md").read_text()


def test_the_table_names_what_the_code_asks_for_and_nothing_else() -> None:
    names = set(parameters.readers())
    files = [path for room in ("backends", "codecs") for path in (ROOT / room).rglob("*.py") if path.name != "parameters.py"]
    sources = {path: path.read_text() for path in files}
    asked = {
        name
        for path, text in sources.items()
        if "compat" not in path.parts
        for found in _ASKED.finditer(text)
        for name in re.findall(r"[\w.]+", found[1] or found[2] or found[3])
    }
    assert len(asked) > 30, asked
    assert asked - names - _OTHERS == set()
    everything = "\n".join(sources.values())
    assert [name for name in names if f'"{name}"' not in everything and name not in ("session.*", "codec")] == []


def test_a_parameter_of_another_backend_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_module(tmp_path)
    given = {"freeze": "true", "topk": "3", "my_own": "x", "channels_last": "true"}
    with caplog.at_level(logging.WARNING):
        loaded(target(tmp_path, "eager", given))
    told = [record.message for record in caplog.records if "has no effect" in record.message]
    assert len(told) == 2
    assert "parameter freeze has no effect with backend 'eager'" in told[0]
    assert "it is read by torchscript" in told[0]
    assert "topk" in told[1]


# -- the same answers ---------------------------------------------------------------------------------------------------

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
        )

    def forward(self, x):
        return self.layers(x)
"""
#: Backend, parameters, largest difference (of outputs around 1).
SAME: list[tuple[str, dict[str, str], float]] = [
    ("eager", {"channels_last": "true"}, 1e-5),
    ("eager", {"autocast": "bf16"}, 5e-2),
    ("eager", {"autocast": "bf16", "channels_last": "true"}, 5e-2),
    ("eager", {"INFERENCE_MODE": "false"}, 0),
    ("eager", {"DISABLE_CUDNN": "true"}, 0),
    ("eager", {"INTRA_OP_THREAD_COUNT": "2"}, 1e-5),
    ("eager", {"batch_sizes": "powers_of_two"}, 1e-5),
    ("torchscript", {"channels_last": "true"}, 1e-5),
    ("torchscript", {"autocast": "bf16"}, 5e-2),
    ("torchscript", {"freeze": "true"}, 1e-5),
    ("torchscript", {"optimize_for_inference": "true"}, 1e-5),
    ("torchscript", {"optimize_for_inference": "true", "channels_last": "true"}, 1e-5),
    ("torchscript", {"freeze": "true", "autocast": "bf16", "channels_last": "true"}, 5e-2),
    ("torchscript", {"DISABLE_OPTIMIZED_EXECUTION": "true"}, 1e-5),
    ("torchscript", {"batch_sizes": "1,8"}, 1e-5),
    ("onnxruntime", {"io_binding": "true"}, 0),
    ("onnxruntime", {"execution_mode": "1", "inter_op_thread_count": "2"}, 1e-5),
    ("onnxruntime", {"enable_mem_arena": "0", "enable_mem_pattern": "0"}, 1e-5),
    ("onnxruntime", {"session.intra_op.allow_spinning": "1"}, 1e-5),
    ("onnxruntime", {"batch_sizes": "powers_of_two"}, 1e-5),
]
ON_GPU: list[tuple[str, dict[str, str], float]] = [
    ("eager", {"cudnn_benchmark": "true"}, 1e-2),
    ("eager", {"autocast": "fp16"}, 5e-2),
    ("eager", {"overlap_copies": "false"}, 1e-4),
    ("eager", {"ENABLE_CACHE_CLEANING": "true"}, 1e-4),
    ("eager", {"cuda_graphs": "true"}, 1e-2),
    ("torchscript", {"cuda_graphs": "true", "freeze": "true"}, 1e-2),
    ("torchscript", {"optimize_for_inference": "true"}, 1e-2),
    ("onnxruntime", {"cuda_graphs": "true"}, 1e-2),
    ("onnxruntime", {"cudnn_conv_algo_search": "1"}, 1e-2),
    ("onnxruntime", {"do_copy_in_default_stream": "0"}, 1e-2),
]


def save_module(folder: Path) -> torch.nn.Module:
    (folder / "model.py").write_text(SOURCE)
    space: dict[str, Any] = {}
    exec(compile(SOURCE, "model.py", "exec"), space)
    torch.manual_seed(0)
    module: torch.nn.Module = space["Net"]().eval()
    torch.save(module.state_dict(), folder / "weights.pt")
    return module


def save_script(folder: Path) -> torch.nn.Module:
    module = save_module(folder)
    with quiet_jit():
        torch.jit.trace(module, torch.zeros(2, 3, 8, 8)).save(str(folder / "model.pt"))  # type: ignore[no-untyped-call]
    return module


def save_onnx(folder: Path) -> torch.nn.Module:
    """The same network written by hand: exporters are slow."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    module = save_module(folder)
    state = {name: value.numpy() for name, value in module.state_dict().items() if value.dim()}
    norm = [f"layers.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        helper.make_node("Conv", ["x", "layers.0.weight", "layers.0.bias"], ["a"]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "layers.4.weight", "layers.4.bias"], ["y"], transB=1),
    ]
    sides: list[tuple[str, list[str | int | None]]] = [("x", ["N", 3, 8, 8]), ("y", ["N", 5])]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in sides)
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in state.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return module


SAVE: dict[str, Callable[[Path], torch.nn.Module]] = {
    "eager": save_module,
    "torchscript": save_script,
    "onnxruntime": save_onnx,
}


def target(folder: Path, backend: str, given: dict[str, str]) -> ModelConfig:
    return config(folder, backend, [spec("x", 3, 8, 8)], [spec("y", 5)], 8, parameters=given)


def check(folder: Path, backend: str, given: dict[str, str], tolerance: float, gpu: int | None = None) -> None:
    module = SAVE[backend](folder)
    running = loaded(target(folder, backend, given), gpu)
    plain = loaded(target(folder, backend, {}), gpu)
    for counts in ((1,), (2, 1), (8,), (1, 3)):
        sent = [np.random.default_rng(n).normal(size=(count, 3, 8, 8)).astype(np.float32) for n, count in enumerate(counts)]
        for array, got, same in zip(
            sent, *([*answers(b, [request(x=a) for a in sent])] for b in (running, plain)), strict=True
        ):
            with torch.inference_mode():
                expected = module(torch.from_numpy(array)).numpy()
            np.testing.assert_allclose(arrays(got)["y"], arrays(same)["y"], rtol=0, atol=tolerance)
            np.testing.assert_allclose(
                arrays(got)["y"], expected, rtol=0, atol=max(tolerance, 1e-5 if gpu is None else 1e-2)
            )


@pytest.fixture(autouse=True)
def _torch_settings() -> Any:
    before = torch.get_num_threads(), torch.backends.cudnn.enabled
    yield
    torch.set_num_threads(before[0])
    torch.backends.cudnn.enabled = before[1]


@pytest.mark.parametrize(("backend", "given", "tolerance"), SAME)
def test_answers_stay(tmp_path: Path, backend: str, given: dict[str, str], tolerance: float) -> None:
    check(tmp_path, backend, given, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "given", "tolerance"), ON_GPU)
def test_on_cuda_answers_stay(tmp_path: Path, backend: str, given: dict[str, str], tolerance: float) -> None:
    if backend == "onnxruntime":
        import onnxruntime as ort

        if "CUDAExecutionProvider" not in ort.get_available_providers():
            pytest.skip("onnxruntime-gpu is not installed")
    check(tmp_path, backend, given, tolerance, gpu=0)


_COMPILED = """
import sys
from pathlib import Path
import numpy as np
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec
given = {"compile": "true", "TORCH_COMPILE_OPTIONAL_PARAMETERS": sys.argv[2], "batch_sizes": "2"}
backend = loaded(config(Path(sys.argv[1]), "eager", [spec("x", 4)], [spec("y", 4)], 2, parameters=given))
for rows in (2, 1):
    array = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
    (answer,) = answers(backend, [request(x=array)])
    np.testing.assert_allclose(arrays(answer)["y"], np.tanh(array) * 2, rtol=0, atol=1e-5)
print("the same", type(backend.module).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_answers_stay(tmp_path: Path, compiler: str) -> None:
    """In a process of its own: the compiler's helpers and warnings stay there."""
    if compiler == "inductor" and not os.environ.get("JITNEY_SLOW_TESTS"):
        pytest.skip("compiling with g++ takes a minute; set JITNEY_SLOW_TESTS to run it")
    (tmp_path / "model.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return torch.tanh(x) * 2\n"
    )
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", _COMPILED, str(tmp_path), json.dumps({"backend": compiler})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)
    assert done.stdout == "the same OptimizedModule\n", done.stderr
