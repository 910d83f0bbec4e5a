"""Stacking, splitting and failing alone, with a model of plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jitney.backends import cuda_context
from jitney.backends.base import DeviceLost
from jitney.backends.batch import Array, TensorBackend
from jitney.core.model_config import ModelConfig
from jitney.core.request import Instance, Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.tensors import answers, arrays, config, request, spec

Run = Callable[[dict[str, Array]], dict[str, Array]]


class Numpy(TensorBackend):
    """A backend around a function of numpy arrays that remembers the batches it saw."""

    def __init__(self, function: Run) -> None:
        self.function = function
        self.shapes: list[tuple[int, ...]] = []
        self.seen: list[dict[str, Array]] = []

    def open(self, model: ModelConfig, instance: Instance) -> None:
        pass

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        self.shapes.append(next(iter(inputs.values())).values.shape)
        self.seen.append(inputs)
        return self.function(inputs)


def double(inputs: dict[str, Array]) -> dict[str, Array]:
    return {"y": Array("FP32", inputs["x"].values * 2)}


def make(function: Run, model: ModelConfig) -> Numpy:
    backend = Numpy(function)
    backend.load(model, Instance("m_0"))
    backend.shapes.clear()
    backend.seen.clear()
    return backend


@pytest.fixture
def model(tmp_path: Path) -> ModelConfig:
    return config(tmp_path, "eager", [spec("x", 3)], [spec("y", 3)])


def rows(count: int, start: float = 0.0) -> np.ndarray:
    return start + np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def test_one_run_for_the_batch_and_to_each_its_rows(model: ModelConfig) -> None:
    backend = make(double, model)
    sent = [rows(1), rows(3, 100), rows(2, 200)]
    got = [arrays(answer)["y"] for answer in answers(backend, [request(x=array) for array in sent])]
    assert backend.shapes == [(6, 3)]
    for array, answer in zip(sent, got, strict=True):
        np.testing.assert_array_equal(answer, array * 2)


def test_answers_survive_the_next_batch(model: ModelConfig) -> None:
    backend = make(lambda inputs: {"y": inputs["x"]}, model)
    first = answers(backend, [request(x=rows(1)), request(x=rows(1, 50))])
    answers(backend, [request(x=rows(1, 900)), request(x=rows(1, 950))])
    np.testing.assert_array_equal(arrays(first[1])["y"], rows(1, 50))


def test_a_lone_request_is_not_copied(model: ModelConfig) -> None:
    backend = make(double, model)
    memory = bytearray(rows(2).tobytes())
    answers(backend, [Request(tensors=[Tensor("x", "FP32", (2, 3), memoryview(memory))], rows=2)])
    assert np.shares_memory(backend.seen[0]["x"].values, np.frombuffer(memory, dtype=np.uint8))


def test_an_unaligned_lone_request_is_copied(model: ModelConfig) -> None:
    backend = make(double, model)
    data = memoryview(b"\0" + rows(2).tobytes())[1:]
    (answer,) = answers(backend, [Request(tensors=[Tensor("x", "FP32", (2, 3), data)], rows=2)])
    assert backend.seen[0]["x"].values.flags.aligned
    np.testing.assert_array_equal(arrays(answer)["y"], rows(2) * 2)


def test_the_answer_never_aliases_the_requests_memory(model: ModelConfig) -> None:
    backend = make(lambda inputs: {"y": inputs["x"]}, model)
    memory = bytearray(rows(1).tobytes())
    (answer,) = answers(backend, [Request(tensors=[Tensor("x", "FP32", (1, 3), memory)])])
    memory[:] = bytes(len(memory))
    np.testing.assert_array_equal(arrays(answer)["y"], rows(1))


@pytest.mark.parametrize("poisoned", [{7}, {0, 31}, {3, 4, 5, 20}, set(range(32))])
def test_only_the_poisoned_requests_fail(model: ModelConfig, poisoned: set[int]) -> None:
    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        if np.isnan(inputs["x"].values).any():
            raise RuntimeError("NaN in the input")
        return double(inputs)

    backend = make(run, model)
    sent = [np.full((1, 3), np.nan if index in poisoned else index, np.float32) for index in range(32)]
    for index, answer in enumerate(answers(backend, [request(x=array) for array in sent])):
        if index in poisoned:
            assert answer.error is not None
            assert answer.error.message == "RuntimeError: NaN in the input"
            assert 'raise RuntimeError("NaN in the input")' in answer.error.detail
        else:
            np.testing.assert_array_equal(arrays(answer)["y"], sent[index] * 2)


def test_a_lost_device_ends_the_batch(model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was raised: cuBLAS and ONNX Runtime raise the same kinds of errors for lost devices and for sound ones."""

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        if inputs["x"].values.any():
            raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
        return double(inputs)

    backend = make(run, model)
    sent = [request(x=rows(1, 1)), request(x=rows(1, 2))]
    monkeypatch.setattr(cuda_context, "lost", lambda: "CUDA error 710: device-side assert triggered")
    assert all(answer.error is not None for answer in answers(backend, sent)), "on the CPU nothing is lost"
    backend.instance = Instance("m_0", "KIND_GPU", 0)
    backend.shapes.clear()
    with pytest.raises(DeviceLost, match="'m' lost its device: CUDA error 710: device-side assert triggered"):
        backend.execute(sent, lambda index, response: None)
    assert len(backend.shapes) == 1
    monkeypatch.setattr(cuda_context, "lost", lambda: "")
    assert [answer.error.message for answer in answers(backend, sent) if answer.error] == [
        "RuntimeError: CUBLAS_STATUS_EXECUTION_FAILED"
    ] * 2


def test_an_output_without_the_batch_axis_names_tensor_expected_and_found(model: ModelConfig) -> None:
    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        total = inputs["x"].values
        return {"y": Array("FP32", total if len(total) < 3 else total.sum(0, keepdims=True))}

    backend = Numpy(run)
    with pytest.raises(
        RuntimeError, match=r"output 'y' of model 'm' has shape \[1,3\] for a batch of 32 rows, expected \[32,3\]"
    ):
        backend.load(model, Instance("m_0"))


def test_a_wrong_row_count_fails_the_batch_without_hiding_it(model: ModelConfig) -> None:
    lying = False
    backend = make(lambda inputs: {"y": Array("FP32", inputs["x"].values[: 1 if lying else None])}, model)
    lying = True
    for answer in answers(backend, [request(x=rows(1)), request(x=rows(1))]):
        assert answer.error is not None
        assert answer.error.code == "BAD_OUTPUT"
        assert "shape [1,3] for a batch of 2 rows, expected [2,3]" in answer.error.message


def test_a_wrong_output_datatype_is_refused_at_load(model: ModelConfig) -> None:
    with pytest.raises(RuntimeError, match="unexpected datatype FP64 for inference output 'y' of model 'm', expecting FP32"):
        make(lambda inputs: {"y": Array("FP64", inputs["x"].values.astype(np.float64))}, model)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"z": rows(1)}, "unexpected inference input 'z' for model 'm', allowed: x"),
        ({"x": rows(1).astype(np.int32)}, "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'"),
        ({"x": rows(1)[0]}, r"shape [3] of input 'x' has 1 dimensions, model 'm' expects 2"),
        ({}, "request lacks input x of model 'm'"),
    ],
)
def test_a_request_that_does_not_fit_fails_alone(model: ModelConfig, tensors: dict[str, np.ndarray], message: str) -> None:
    backend = make(double, model)
    bad = Request(tensors=[Tensor.from_numpy(name, array) for name, array in tensors.items()])
    wrong, right = answers(backend, [bad, request(x=rows(1))])
    assert wrong.error is not None
    assert (wrong.error.message, wrong.error.code) == (message, "INVALID_ARG")
    np.testing.assert_array_equal(arrays(right)["y"], rows(1) * 2)


def test_requested_outputs_only(tmp_path: Path) -> None:
    model = config(tmp_path, "eager", [spec("x", 3)], [spec("y", 3), spec("z", 3)])
    backend = make(lambda inputs: {"y": inputs["x"], "z": Array("FP32", -inputs["x"].values)}, model)
    both, one = answers(backend, [request(x=rows(1)), request(x=rows(1, 5), outputs=["z"])])
    assert set(arrays(both)) == {"y", "z"}
    assert set(arrays(one)) == {"z"}
    np.testing.assert_array_equal(arrays(one)["z"], -rows(1, 5))


def test_odd_shapes_and_missing_optional_inputs_run_in_batches_of_their_own(tmp_path: Path) -> None:
    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        total = inputs["x"].values.sum(1, keepdims=True)
        return {"y": Array("FP32", total + inputs["b"].values if "b" in inputs else total)}

    model = config(tmp_path, "eager", [spec("x", -1, ragged=True), spec("b", 1, optional=True)], [spec("y", 1)])
    backend = make(run, model)
    ones = [np.ones((1, size), np.float32) for size in (2, 5, 2)]
    extra = np.full((1, 1), 100, np.float32)
    got = answers(backend, [*(request(x=array) for array in ones), request(x=ones[0], b=extra)])
    assert [float(arrays(answer)["y"][0, 0]) for answer in got] == [2, 5, 2, 102]
    assert sorted(backend.shapes) == [(1, 2), (1, 5), (2, 2)]


def test_without_a_batch_axis_each_request_runs_alone(tmp_path: Path) -> None:
    model = config(tmp_path, "eager", [spec("x", 2, 3)], [spec("y", 2, 3)], rows=0)
    backend = make(double, model)
    got = answers(backend, [request(x=rows(2)), request(x=rows(2, 9))])
    assert backend.shapes == [(2, 3), (2, 3)]
    np.testing.assert_array_equal(arrays(got[1])["y"], rows(2, 9) * 2)


def test_reshape_maps_both_ways(tmp_path: Path) -> None:
    inputs = [spec("x", 2, -1, reshape=(1, 2, -1))]
    outputs = [spec("y", 1, reshape=())]
    backend = make(
        lambda given: {"y": Array("FP32", given["x"].values.sum((1, 2, 3)))}, config(tmp_path, "eager", inputs, outputs)
    )
    got = answers(backend, [request(x=np.ones((2, 2, 4), np.float32)), request(x=np.ones((1, 2, 4), np.float32))])
    assert backend.shapes == [(3, 1, 2, 4)]
    np.testing.assert_array_equal(arrays(got[0])["y"], [[8.0], [8.0]])


def test_strings_are_stacked_and_split(tmp_path: Path) -> None:
    model = config(tmp_path, "eager", [spec("x", 1, datatype="BYTES")], [spec("y", 1, datatype="BYTES")])
    backend = make(lambda inputs: {"y": Array("BYTES", inputs["x"].values[:, ::-1])}, model)
    texts = [np.array([[b"a"]], dtype=object), np.array([[b"bc"], [b""]], dtype=object)]
    got = answers(backend, [request(x=array) for array in texts])
    assert arrays(got[1])["y"].tolist() == [[b"bc"], [b""]]


def test_durations_tell_the_parts_of_the_last_batch(model: ModelConfig) -> None:
    backend = make(double, model)
    answers(backend, [request(x=rows(1)), request(x=rows(1))])
    assert len(backend.durations) == 3
    assert all(part > 0 for part in backend.durations)


def test_a_configuration_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must contain at least one input"):
        Numpy(double).load(config(tmp_path, "eager", [], [spec("y", 1)]), Instance("m_0"))
