"""The tests that need a GPU, on one that is made of the CPU's memory and copies as late as it may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What it cannot do: ONNX Runtime's provider, `conv` of a TorchScript module inside a graph, processes that a test starts.
LEFT_OUT = "not onnx and not torchscript-given5 and not device_side_assert"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "jitney.tests.fakes.late_device",
        "-p",
        "no:cacheprovider",
        "-q",
        "-n",
        "0",
    ]
    return subprocess.run(
        [*command, "--reruns", "0", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass(tmp_path: Path) -> None:
    files = ["eager", "staging", "torchscript", "exported", "pixels", "fusion"]
    done = run("-m", "gpu", "-k", LEFT_OUT, *(f"tests/backends/test_{name}.py" for name in files))
    assert done.returncode == 0, done.stdout[-4000:]
    passed = int(done.stdout.rpartition(" passed")[0].split()[-1])
    assert passed > 8, done.stdout[-1000:]


SPOILED = """
import numpy as np, sys
from jitney.tests.fakes import late_device
late_device.install()
{spoil}
from pathlib import Path
from jitney.backends import torch_batch
trimmed = []
torch_batch.trim = lambda: trimmed.append(1)
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec
folder = Path(sys.argv[1])
(folder / "model.py").write_text('''
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x * 2 + 1
''')
backend = loaded(config(folder, "eager", [spec("x", 40)], [spec("y", 40)], 16), gpu=0)
wrong = 0
for seed in range(20):
    rng = np.random.default_rng(seed)
    sent = [rng.normal(size=(int(rng.integers(1, 4)), 40)).astype(np.float32) for _ in range(5)]
    for array, answer in zip(sent, answers(backend, [request(x=array) for array in sent])):
        wrong += not np.array_equal(arrays(answer)["y"], array * 2 + 1)
print(wrong, late_device.COUNTS["late copy"], late_device.COUNTS["kernel"], len(trimmed))
"""


@pytest.mark.parametrize(
    ("spoil", "is_noticed"),
    [
        ("", False),
        ("late_device.Stream.wait_stream = lambda self, other: None", True),
        ("late_device.Event.synchronize = lambda self: None", True),
    ],
    ids=["as it is", "the stream that computes does not wait", "the host does not wait"],
)
def test_waits_that_are_left_out_are_noticed(tmp_path: Path, spoil: str, is_noticed: bool) -> None:
    """Answers are right as it is, and wrong where one of the product's waits does nothing."""
    done = subprocess.run(
        [sys.executable, "-c", SPOILED.format(spoil=spoil), str(tmp_path)],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    wrong, late, kernels, trimmed = map(int, done.stdout.split())
    assert trimmed == 1, "what the weights took in the host's memory was not given back"
    assert late > 10
    assert kernels > 20
    assert (wrong > 0) is is_noticed


LOST = """
import numpy as np, sys
from jitney.tests.fakes import late_device
late_device.install()
from pathlib import Path
from jitney.backends.base import DeviceLost
from jitney.tests.fakes.tensors import config, loaded, request, spec
folder = Path(sys.argv[1])
(folder / "model.py").write_text('''
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        if (x == 7).any():
            raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED")
        try:
            return torch.nn.functional.embedding(x, torch.ones(8, 3, device=x.device))
        except RuntimeError:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED") from None
''')
backend = loaded(config(folder, "eager", [spec("x", datatype="INT64")], [spec("y", 3)]), gpu=0)
answered = []
for value in (7, 1, 99):
    try:
        backend.execute([request(x=np.array([value]))], lambda index, response: answered.append(response.error))
    except DeviceLost as error:
        print("lost:", error)
print([error and error.message.split(": ", 1)[1] for error in answered])
"""


def test_an_error_after_a_device_side_assert_ends_the_worker_and_the_same_kind_of_error_without_one_does_not(
    tmp_path: Path,
) -> None:
    """Both are cuBLAS's RuntimeErrors; only what CUDA says when it is asked tells them apart."""
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.splitlines() == [
        "lost: model 'm' lost its device: CUDA error: device-side assert triggered",
        "['CUDA error: CUBLAS_STATUS_NOT_SUPPORTED', None]",
    ]


TWO_AT_ONCE = """
import numpy as np, sys
from jitney.tests.fakes import late_device
late_device.install()
{spoil}
from pathlib import Path
from jitney.tests.fakes.tensors import arrays, config, loaded, request, spec
folder = Path(sys.argv[1])
(folder / "model.py").write_text('''
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x * 2 + 1
''')
parameters = dict(item.split("=") for item in sys.argv[2:])
backend = loaded(config(folder, "eager", [spec("x", 40)], [spec("y", 40)], 16, parameters=parameters), gpu=0)
backend.compute = late_device.queued(backend.compute)
late_device.COUNTS.clear()
random, wrong, before = np.random.default_rng(5), 0, None

def begin():
    rows = [random.normal(size=(int(random.integers(1, 4)), 40)).astype(np.float32) for _ in range(5)]
    got = {{}}
    launched = backend.begin([request(x=row) for row in rows], got.__setitem__)
    assert launched is not None and not got
    return launched, rows, got

for _ in range(20):
    current = begin()
    if before is not None:
        launched, rows, got = before
        while random.random() < 0.5 and not launched.is_over():
            pass
        launched.end()
        wrong += sum(not np.array_equal(arrays(got[n])["y"], row * 2 + 1) for n, row in enumerate(rows))
    before = current
before[0].end()
print(wrong, *(late_device.COUNTS[kind] for kind in ("event.synchronize", "stream.synchronize", "synchronize")))
"""

#: As if there were one space for both batches, or as if the host did not wait for the first of them.
ONE_SPACE = """
from jitney.backends.batch import TensorBackend
use = TensorBackend.use
TensorBackend.use = lambda self, space: use(self, 0)
"""


@pytest.mark.parametrize(
    ("spoil", "is_noticed"),
    [("", False), (ONE_SPACE, True), ("late_device.Event.synchronize = lambda self: None", True)],
    ids=["as it is", "both batches in one space", "the host does not wait"],
)
@pytest.mark.parametrize("parameters", [[], ["overlap_copies=false"], ["cuda_graphs=true", "batch_sizes=16"]])
def test_two_batches_at_once_do_not_disturb_each_other(
    tmp_path: Path, parameters: list[str], spoil: str, is_noticed: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_AT_ONCE.format(spoil=spoil), str(tmp_path), *parameters],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    wrong, waits, *others = map(int, done.stdout.split())
    assert (wrong > 0) is is_noticed
    assert others == [0, 0], "the host waited for all that the device had, the next batch too"
    if not spoil:
        assert waits == 20
