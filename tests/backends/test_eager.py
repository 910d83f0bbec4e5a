"""Eager models: finding the class, loading weights safely, passing inputs, naming outputs; against plain torch."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jitney.backends.base import DeviceLost
from jitney.backends.eager import EagerBackend, build
from jitney.backends.options import CannotLoad
from jitney.core.request import Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

LINEAR = """
import torch
from torch.nn import Linear

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Linear(4, 3)

    def forward(self, x):
        return self.layer(x)
"""


def source(folder: Path, text: str, weights: str = "") -> torch.nn.Module:
    """Writes model.py, and seeded weights in the file called `weights`; returns the reference module."""
    (folder / "model.py").write_text(text)
    torch.manual_seed(1)
    module = build(folder / "model.py", f"reference_{folder.name}").eval()
    if weights.endswith(".safetensors"):
        save_file(module.state_dict(), folder / weights)
    elif weights:
        torch.save(module.state_dict(), folder / weights)
    return module


def body(code: str, signature: str = "self, x") -> str:
    """A module without parameters whose forward() is `code`."""
    lines = "\n".join(f"        {line}" for line in code.splitlines())
    return f"import torch\n\nclass Net(torch.nn.Module):\n    def forward({signature}):\n{lines}\n"


X, Y = [spec("x", 4)], [spec("y", 3)]


@pytest.mark.parametrize("weights", ["model.pt", "model.safetensors", "trained.pth"])
def test_answers_are_torchs_own(tmp_path: Path, weights: str) -> None:
    module = source(tmp_path, LINEAR, weights)
    backend = loaded(config(tmp_path, "eager", X, Y))
    sent = [np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32) for seed, rows in enumerate([1, 5, 2])]
    with torch.inference_mode():
        expected = [module(torch.from_numpy(array)).numpy() for array in sent]
    for answer, reference in zip(answers(backend, [request(x=array) for array in sent]), expected, strict=True):
        np.testing.assert_allclose(arrays(answer)["y"], reference, rtol=1e-6, atol=1e-6)


def test_one_poisoned_row_in_32_fails_alone(tmp_path: Path) -> None:
    source(tmp_path, body("return self.table(x)").replace("    def forward", SETUP + "    def forward"), "model.pt")
    backend = loaded(config(tmp_path, "eager", [spec("x", datatype="INT64")], [spec("y", 3)]))
    sent = [np.array([index % 5 if index != 13 else 99], dtype=np.int64) for index in range(32)]
    got = answers(backend, [request(x=array) for array in sent])
    assert [index for index, answer in enumerate(got) if answer.error] == [13]
    assert got[13].error is not None
    assert got[13].error.message == "PyTorch execute failure: index out of range in self"
    table = backend.module.table.weight.numpy()  # type: ignore[attr-defined]
    for index in set(range(32)) - {13}:
        np.testing.assert_array_equal(arrays(got[index])["y"], table[[index % 5]])


SETUP = """    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(5, 3)

"""


def test_inputs_by_argument_name_whatever_their_order(tmp_path: Path) -> None:
    source(tmp_path, body("return {'diff': a - b, 'total': a + b + (0 if bias is None else bias)}", "self, a, b, bias=None"))
    inputs = [spec("b", 2), spec("a", 2), spec("bias", 2, optional=True)]
    backend = loaded(config(tmp_path, "eager", inputs, [spec("total", 2), spec("diff", 2)]))
    a, b = np.full((1, 2), 5, np.float32), np.full((1, 2), 3, np.float32)
    plain, biased = answers(backend, [request(a=a, b=b), request(b=b, a=a, bias=b * 10)])
    assert arrays(plain)["diff"].tolist() == [[2.0, 2.0]]
    assert arrays(plain)["total"].tolist() == [[8.0, 8.0]]
    assert arrays(biased)["total"].tolist() == [[38.0, 38.0]]


def test_inputs_and_outputs_by_index(tmp_path: Path) -> None:
    source(tmp_path, body("return a - b, a + b, a * b", "self, a, b"))
    inputs = [spec("INPUT__1", 1), spec("INPUT__0", 1)]
    backend = loaded(config(tmp_path, "eager", inputs, [spec("OUTPUT__2", 1), spec("OUTPUT__0", 1)]))
    (answer,) = answers(backend, [request(INPUT__1=np.full((1, 1), 3, np.float32), INPUT__0=np.full((1, 1), 5, np.float32))])
    assert {name: float(array[0, 0]) for name, array in arrays(answer).items()} == {"OUTPUT__2": 15.0, "OUTPUT__0": 2.0}


def test_inputs_in_the_order_of_the_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source(tmp_path, body("return [a - b]", "self, a, b"))
    backend = loaded(config(tmp_path, "eager", [spec("left", 1), spec("right", 1)], [spec("y", 1)]))
    (answer,) = answers(backend, [request(right=np.full((1, 1), 3, np.float32), left=np.full((1, 1), 5, np.float32))])
    assert arrays(answer)["y"].tolist() == [[2.0]]
    assert "order of the configuration: left, right" in caplog.text


def test_one_argument_that_is_a_dict(tmp_path: Path) -> None:
    source(tmp_path, body("return inputs['p'] + inputs['q']", "self, inputs: dict[str, torch.Tensor]"))
    backend = loaded(config(tmp_path, "eager", [spec("p", 1), spec("q", 1)], [spec("y", 1)]))
    (answer,) = answers(backend, [request(p=np.ones((2, 1), np.float32), q=np.ones((2, 1), np.float32))])
    assert arrays(answer)["y"].tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return x, x", "returned 2 outputs, its configuration names 1: y"),
        ("return {'z': x}", "returned no 'y', only: z"),
        ("return x.sum(0)", r"output 'y' of model 'm' has shape \[4\] for a batch of 1 rows, expected \[1,4\]"),
        ("return x.double()", "unexpected datatype FP64 for inference output 'y'"),
        ("return None", "output 'y' of model 'm' is a NoneType, expected a tensor"),
        ("return x.to(torch.complex64)", "complex64, which has no KServe v2 datatype"),
        ("return x.reshape(1, -1, 4)[0, :1]", r"shape \[1,4\] for a batch of 2 rows, expected \[2,4\]"),
        ("raise ValueError('not today')", "failed on a warm-up batch of 1 rows .* not today"),
    ],
)
def test_a_model_that_does_not_do_what_is_configured_is_not_ready(tmp_path: Path, code: str, message: str) -> None:
    source(tmp_path, body(code))
    with pytest.raises(RuntimeError, match=message):
        loaded(config(tmp_path, "eager", X, [spec("y", 4)]))


@pytest.mark.parametrize(
    "datatype", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
)
def test_every_datatype_passes(tmp_path: Path, datatype: str) -> None:
    source(tmp_path, body("return x.clone()"))
    model = config(tmp_path, "eager", [spec("x", 2, datatype=datatype)], [spec("y", 2, datatype=datatype)])
    data = np.random.default_rng(0).integers(0, 2, size=Tensor("x", datatype, (3, 2), b"").nbytes or 64, dtype=np.uint8)
    tensors = [Tensor("x", datatype, (count, 2), data.tobytes()[: count * 2 * SIZES[datatype]]) for count in (3, 1)]
    got = answers(loaded(model), [Request(tensors=[tensor]) for tensor in tensors])
    for answer, sent in zip(got, tensors, strict=True):
        np.testing.assert_array_equal(arrays(answer)["y"], sent.numpy())


SIZES = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "UINT16": 2,
    "INT16": 2,
    "FP16": 2,
    "UINT32": 4,
    "INT32": 4,
    "FP32": 4,
} | dict.fromkeys(("UINT64", "INT64", "FP64"), 8)


def test_bf16_travels_bit_by_bit(tmp_path: Path) -> None:
    source(tmp_path, body("assert x.dtype == torch.bfloat16\nreturn x * 2"))
    model = config(tmp_path, "eager", [spec("x", 2, datatype="BF16")], [spec("y", 2, datatype="BF16")])
    values = torch.tensor([[1.5, -3.0]], dtype=torch.bfloat16)
    tensor = Tensor("x", "BF16", (1, 2), values.view(torch.uint16).numpy().tobytes())
    (answer,) = answers(loaded(model), [Request(tensors=[tensor])])
    assert answer.tensors[0].datatype == "BF16"
    assert torch.equal(torch.from_numpy(arrays(answer)["y"]).view(torch.bfloat16), values * 2)


def test_a_model_that_works_in_place_never_touches_the_requests_memory(tmp_path: Path) -> None:
    source(tmp_path, body("return x.add_(1)"))
    backend = loaded(config(tmp_path, "eager", [spec("x", 2)], [spec("y", 2)]))
    memory = bytearray(np.zeros((1, 2), np.float32).tobytes())
    (answer,) = answers(backend, [Request(tensors=[Tensor("x", "FP32", (1, 2), memory)])])
    assert arrays(answer)["y"].tolist() == [[1.0, 1.0]]
    assert not any(memory)


def test_a_well_behaved_model_reads_a_lone_requests_memory(tmp_path: Path) -> None:
    source(tmp_path, body("self.seen = x.data_ptr()\nreturn x + 1"))
    backend = loaded(config(tmp_path, "eager", [spec("x", 2)], [spec("y", 2)]))
    array = np.zeros((1, 2), np.float32)
    answers(backend, [Request(tensors=[Tensor("x", "FP32", (1, 2), array.data.cast("B"))])])
    assert backend.module.seen == array.ctypes.data  # type: ignore[attr-defined]


def test_siblings_can_be_imported_and_imported_modules_do_not_count(tmp_path: Path) -> None:
    name = f"sibling_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text("import torch\n\nclass Base(torch.nn.Module):\n    factor = 3\n")
    source(
        tmp_path, f"from {name} import Base\n\nclass Net(Base):\n    def forward(self, x):\n        return x * self.factor\n"
    )
    (answer,) = answers(loaded(config(tmp_path, "eager", X, [spec("y", 4)])), [request(x=np.ones((1, 4), np.float32))])
    assert arrays(answer)["y"].tolist() == [[3.0] * 4]
    assert not (tmp_path / "__pycache__").exists()


def test_several_module_classes_need_a_name(tmp_path: Path) -> None:
    source(tmp_path, body("return x"))
    text = (tmp_path / "model.py").read_text()
    (tmp_path / "model.py").write_text(text + "\n" + text.replace("Net", "Other").replace("return x", "return -x"))
    with pytest.raises(CannotLoad, match=r"must define exactly one .* it defines 2: Net, Other; name the one"):
        loaded(config(tmp_path, "eager", X, [spec("y", 4)]))
    backend = loaded(config(tmp_path, "eager", X, [spec("y", 4)], parameters={"model_class": "Other"}))
    (answer,) = answers(backend, [request(x=np.ones((1, 4), np.float32))])
    assert arrays(answer)["y"].tolist() == [[-1.0] * 4]


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pt_file_that_holds_code_is_refused_and_never_run(tmp_path: Path) -> None:
    source(tmp_path, LINEAR)
    for protocol in ("torch", "pickle"):
        bomb = {"layer.weight": Bomb(tmp_path / "boom")}
        if protocol == "torch":
            torch.save(bomb, tmp_path / "model.pt")
        else:
            (tmp_path / "model.pt").write_bytes(pickle.dumps(bomb, protocol=2))
        with pytest.raises(CannotLoad, match=r"model\.pt is refused: it holds more than tensors"):
            loaded(config(tmp_path, "eager", X, Y))
        assert not (tmp_path / "boom").exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(source(tmp_path, LINEAR), tmp_path / "model.pt")
    with pytest.raises(CannotLoad, match=r"model\.pt is refused"):
        loaded(config(tmp_path, "eager", X, Y))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"layer.weight": torch.zeros(3, 4)}, r"does not fit Net of model\.py: .*layer\.bias"),
        ({"layer.weight": torch.zeros(9, 4), "layer.bias": torch.zeros(3)}, "size mismatch"),
        ([torch.zeros(1)], "holds a list, expected a state dict"),
    ],
)
def test_weights_must_fit(tmp_path: Path, state: Any, message: str) -> None:
    source(tmp_path, LINEAR)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CannotLoad, match=message):
        loaded(config(tmp_path, "eager", X, Y))


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_damaged_weight_file_is_named(tmp_path: Path, name: str) -> None:
    source(tmp_path, LINEAR, name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"not weights at all"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CannotLoad, match=name):
            loaded(config(tmp_path, "eager", X, Y))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=r"model\.py does not exist"):
        loaded(config(tmp_path, "eager", X, Y))
    source(tmp_path, LINEAR)
    with pytest.raises(CannotLoad, match="holds no weights"):
        loaded(config(tmp_path, "eager", X, Y))
    with pytest.raises(CannotLoad, match=r"special\.pt does not exist"):
        loaded(config(tmp_path, "eager", X, Y, filename="special.pt"))
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / name)
    with pytest.raises(CannotLoad, match=r"several weight files \(a\.pt, b\.pt\)"):
        loaded(config(tmp_path, "eager", X, Y))


@pytest.mark.parametrize("parameters", [{"channels_last": "true"}, {"autocast": "bf16"}, {"INFERENCE_MODE": "false"}])
def test_variants_answer_the_same(tmp_path: Path, parameters: dict[str, str]) -> None:
    conv = LINEAR.replace("Linear(4, 3)", "torch.nn.Conv2d(3, 4, 3)")
    module = source(tmp_path, conv, "model.pt")
    backend = loaded(config(tmp_path, "eager", [spec("x", 3, 8, 8)], [spec("y", 4, 6, 6)], parameters=parameters))
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(array)).numpy()
    (answer,) = answers(backend, [request(x=array)])
    np.testing.assert_allclose(arrays(answer)["y"], expected, atol=0.05 if "autocast" in parameters else 1e-5)


def test_compile_is_handed_its_options(tmp_path: Path) -> None:
    source(tmp_path, body("return x + 1"))
    parameters = {"TORCH_COMPILE_OPTIONAL_PARAMETERS": '{"backend": "eager", "dynamic": true}'}
    backend = loaded(config(tmp_path, "eager", X, [spec("y", 4)], parameters=parameters))
    assert isinstance(backend, EagerBackend)
    assert isinstance(backend.module, torch._dynamo.OptimizedModule)
    (answer,) = answers(backend, [request(x=np.zeros((3, 4), np.float32))])
    assert arrays(answer)["y"].tolist() == [[1.0] * 4] * 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"autocast": "int4"}, "parameter autocast must be one of off, bf16, fp16, got 'int4'"),
        ({"channels_last": "perhaps"}, "failed to convert channels_last 'perhaps' to boolean value"),
        ({"NUM_THREADS": "many"}, "failed to convert NUM_THREADS 'many' to integral number"),
        ({"TORCH_COMPILE_OPTIONAL_PARAMETERS": "{"}, "is not JSON"),
    ],
)
def test_bad_parameters_are_named(tmp_path: Path, parameters: dict[str, str], message: str) -> None:
    source(tmp_path, body("return x"))
    with pytest.raises(CannotLoad, match=message):
        loaded(config(tmp_path, "eager", X, [spec("y", 4)], parameters=parameters))


def test_threads_are_the_instances_share_unless_configured(tmp_path: Path) -> None:
    source(tmp_path, body("return x"))
    before = torch.get_num_threads()
    try:
        loaded(config(tmp_path, "eager", X, [spec("y", 4)], parameters={"NUM_THREADS": "2"}))
        assert torch.get_num_threads() == 2
        loaded(config(tmp_path, "eager", X, [spec("y", 4)]))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_on_cuda_the_answers_are_the_cpus(tmp_path: Path) -> None:
    module = source(tmp_path, LINEAR, "model.pt")
    backend = loaded(config(tmp_path, "eager", X, Y), gpu=0)
    assert isinstance(backend, EagerBackend)
    assert next(backend.module.parameters()).is_cuda
    sent = [np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32) for seed in range(8)]
    got = answers(backend, [request(x=array) for array in sent])
    for array, answer in zip(sent, got, strict=True):
        with torch.inference_mode():
            np.testing.assert_allclose(arrays(answer)["y"], module(torch.from_numpy(array)).numpy(), atol=1e-3)
    assert torch.from_numpy(backend.buffers.buffers["x", "FP32"]).is_pinned()


@pytest.mark.gpu
def test_running_out_of_device_memory_is_said_so(tmp_path: Path) -> None:
    source(tmp_path, body("return x.repeat(1, 1 << 42) if x.any() else x"))
    backend = loaded(config(tmp_path, "eager", X, [spec("y", 4)]), gpu=0)
    bad, good = answers(backend, [request(x=np.ones((1, 4), np.float32)), request(x=np.zeros((1, 4), np.float32))])
    assert bad.error is not None
    assert bad.error.code == "OUT_OF_MEMORY"
    assert good.error is None


_ASSERTS_ON_DEVICE = """
import sys
from pathlib import Path
import numpy as np
from jitney.backends.base import DeviceLost
from jitney.tests.fakes.tensors import config, loaded, request, spec
model = config(Path(sys.argv[1]), "eager", [spec("x", datatype="INT64")], [spec("y", 3)])
backend = loaded(model, gpu=0)
try:
    backend.execute([request(x=np.array([99]))], lambda index, response: print(response.error))
except DeviceLost:
    print("lost")
"""


@pytest.mark.gpu
def test_a_device_side_assert_is_fatal(tmp_path: Path) -> None:
    import subprocess
    import sys

    source(tmp_path, body("return self.table(x)").replace("    def forward", SETUP + "    def forward"), "model.pt")
    done = subprocess.run(
        [sys.executable, "-c", _ASSERTS_ON_DEVICE, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.strip() == "lost", (done.stdout, done.stderr, DeviceLost)
