"""ONNX models on ONNX Runtime: values, strings, BF16, settings, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from jitney.backends.onnx import OnnxBackend
from jitney.backends.onnx_binding import Binding
from jitney.backends.onnx_options import cuda_options, providers, session_options, uses_graphs
from jitney.backends.options import CannotLoad
from jitney.backends.stacking import Array
from jitney.backends.warmup import WarmupFailed
from jitney.core.request import Instance, Request
from jitney.core.tensor import Tensor
from jitney.tests.fakes.tensors import answers, arrays, config, loaded, request, spec

Info = tuple[str, int, Sequence[Any]]
FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING


def save(
    folder: Path, nodes: Sequence[Any], inputs: Sequence[Info], outputs: Sequence[Info], weights: Sequence[Any] = ()
) -> None:
    """Writes model.onnx from nodes and (name, type, shape) of inputs and outputs."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
        initializer=list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")


def save_identity(folder: Path, kind: int, batch: Any = "N") -> None:
    save(folder, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, [batch, 2])], [("y", kind, [batch, 2])])


def save_linear(folder: Path) -> np.ndarray:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["x"], ["minus"])]
    outputs: list[Info] = [("y", FLOAT, ["N", 3]), ("minus", FLOAT, ["N", 4])]
    save(folder, nodes, [("x", FLOAT, ["N", 4])], outputs, [numpy_helper.from_array(weight, "w")])
    return weight


def model(folder: Path, datatype: str = "FP32", **fields: Any) -> Any:
    inputs, outputs = [spec("x", 2, datatype=datatype)], [spec("y", 2, datatype=datatype)]
    return config(folder, "onnxruntime", inputs, outputs, **fields)


def test_answers_are_the_products_of_each_request(tmp_path: Path) -> None:
    weight = save_linear(tmp_path)
    backend = loaded(config(tmp_path, "onnxruntime", [spec("x", 4)], [spec("minus", 4), spec("y", 3)]))
    sent = [np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32) for seed, rows in enumerate([1, 4, 2])]
    for array, answer in zip(sent, answers(backend, [request(x=array) for array in sent]), strict=True):
        np.testing.assert_allclose(arrays(answer)["y"], array @ weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(arrays(answer)["minus"], -array)


def test_one_poisoned_row_in_32_fails_alone(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32).reshape(5, 2), "table")
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    save(tmp_path, [node], [("x", TensorProto.INT64, ["N"])], [("y", FLOAT, ["N", 2])], [table])
    backend = loaded(config(tmp_path, "onnxruntime", [spec("x", 1, datatype="INT64", reshape=())], [spec("y", 2)]))
    sent = [np.array([[77 if index == 3 else index % 5]]) for index in range(32)]
    for index, answer in enumerate(answers(backend, [request(x=array) for array in sent])):
        if index == 3:
            assert answer.error is not None
            assert answer.error.message.startswith("onnx runtime error 2: ")
            assert "77" in answer.error.message
        else:
            assert arrays(answer)["y"].tolist() == [[2.0 * (index % 5), 2.0 * (index % 5) + 1]]


def scalar(folder: Path, **fields: Any) -> Any:
    """A model of a scalar `n` and rows `x`: `y` is the row of that number, `back` is the scalar itself."""
    nodes = [helper.make_node("Gather", ["x", "n"], ["y"]), helper.make_node("Identity", ["n"], ["back"])]
    outputs: list[Info] = [("y", FLOAT, [2]), ("back", TensorProto.INT64, [])]
    save(folder, nodes, [("x", FLOAT, [3, 2]), ("n", TensorProto.INT64, [])], outputs)
    inputs = [spec("x", 3, 2), spec("n", 1, datatype="INT64")]
    outs = [spec("y", 2), spec("back", 1, datatype="INT64")]
    return config(folder, "onnxruntime", inputs, outs, **{"rows": 0, **fields})


@pytest.mark.parametrize("parameters", [{}, {"io_binding": "true"}])
def test_a_scalar_is_one_element_to_clients(tmp_path: Path, parameters: dict[str, str]) -> None:
    """Triton's qa (L0_scalar_io) configures them with dims [ 1 ]. Inside, it is a scalar: Gather's result has no extra axis."""
    backend = loaded(scalar(tmp_path, parameters=parameters))
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    for answer, number in zip(answers(backend, [request(x=rows, n=np.array([n])) for n in range(3)]), range(3), strict=True):
        assert arrays(answer)["y"].tolist() == rows[number].tolist()
        assert arrays(answer)["back"].tolist() == [number]


def test_a_scalar_may_be_configured_with_any_number_of_ones(tmp_path: Path) -> None:
    model = scalar(tmp_path)
    outputs = (model.outputs[0], spec("back", 1, 1, 1, datatype="INT64"))
    backend = loaded(replace(model, inputs=(model.inputs[0], spec("n", 1, 1, datatype="INT64")), outputs=outputs))
    (answer,) = answers(backend, [request(x=np.zeros((3, 2), np.float32), n=np.array([[2]]))])
    assert arrays(answer)["back"].tolist() == [[[2]]]


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL", "UINT8", "INT64", "STRING"])
def test_scalars_of_every_kind_pass(tmp_path: Path, kind: str) -> None:
    datatype = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64", "STRING": "BYTES"}.get(kind, kind)
    save(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], [("x", getattr(TensorProto, kind), [])],
         [("y", getattr(TensorProto, kind), [])])  # fmt: skip
    tensors = [spec("x", 1, datatype=datatype)], [spec("y", 1, datatype=datatype)]
    for parameters in ({}, {"io_binding": "true"}):
        if kind == "STRING" and parameters:
            continue  # not with BYTES tensors
        backend = loaded(config(tmp_path, "onnxruntime", *tensors, rows=0, parameters=parameters))
        data = b"\x01\0\0\0a" if kind == "STRING" else b"\1" + bytes({"BF16": 2, **SIZES}.get(datatype, 4) - 1)
        (answer,) = answers(backend, [Request(tensors=[Tensor("x", datatype, (1,), data)])])
        assert answer.error is None
        (tensor,) = answer.tensors
        assert (tensor.datatype, tensor.shape, bytes(tensor.data)) == (datatype, (1,), data)


def test_a_scalar_has_no_batch_axis_and_no_more_elements(tmp_path: Path) -> None:
    model = scalar(tmp_path)
    for dims in ((3,), (-1,), (1, 3)):
        wrong = replace(model, inputs=(model.inputs[0], spec("n", *dims, datatype="INT64")))
        with pytest.raises(CannotLoad, match=r"tensor 'n': the model expects 0 dimensions"):
            loaded(wrong)
        with pytest.raises(WarmupFailed, match=r"output 'back' of model 'm' has shape \[\], .* says dims"):
            loaded(replace(model, outputs=(model.outputs[0], spec("back", *dims, datatype="INT64"))))
    with pytest.raises(CannotLoad, match="an initial batch dimension"):
        loaded(scalar(tmp_path, rows=8))


def test_an_output_whose_rank_the_file_does_not_tell(tmp_path: Path) -> None:
    """ONNX Runtime shows it like a scalar; the answers tell."""
    inputs: list[Info] = [("x", FLOAT, ["N", 2]), ("shape", TensorProto.INT64, ["K"])]
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    specs = [spec("x", -1, 2), spec("shape", -1, datatype="INT64")]
    backend = loaded(config(tmp_path, "onnxruntime", specs, [spec("y", -1, -1)], rows=0, parameters={"warmup": "off"}))
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    fits, flat = answers(backend, [request(x=x, shape=np.array([1, 4])), request(x=x, shape=np.array([4]))])
    assert arrays(fits)["y"].tolist() == [[0, 1, 2, 3]]
    assert flat.error is not None
    assert "has shape [4], but the model configuration says dims [-1, -1]" in flat.error.message


def test_strings_pass_as_utf8(tmp_path: Path) -> None:
    save_identity(tmp_path, STRING)
    backend = loaded(model(tmp_path, "BYTES"))
    texts = [[["grün".encode(), b""]], [[b"\xff", b"a"]], [[b"c", "日本".encode()], [b"d", b"e"]]]
    first, bad, third = answers(backend, [request(x=np.array(rows, dtype=object)) for rows in texts])
    assert arrays(first)["y"].tolist() == texts[0]
    assert arrays(third)["y"].tolist() == texts[2]
    assert bad.error is not None
    assert bad.error.code == "INVALID_ARG"


@pytest.mark.parametrize(
    "datatype", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP64"]
)
def test_every_datatype_passes(tmp_path: Path, datatype: str) -> None:
    kinds = {"FP16": "FLOAT16", "FP64": "DOUBLE"}
    save_identity(tmp_path, getattr(TensorProto, kinds.get(datatype, datatype)))
    backend = loaded(model(tmp_path, datatype))
    sent = Tensor("x", datatype, (1, 2), b"\x01" + bytes(SIZES[datatype] * 2 - 1))
    (answer,) = answers(backend, [Request(tensors=[sent])])
    np.testing.assert_array_equal(arrays(answer)["y"], sent.numpy())


SIZES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "UINT32": 4, "INT32": 4} | dict.fromkeys(
    ("UINT64", "INT64", "FP64"), 8
)


def test_bf16_travels_bit_by_bit(tmp_path: Path) -> None:
    save_identity(tmp_path, TensorProto.BFLOAT16)
    backend = loaded(model(tmp_path, "BF16"))
    sent = [Tensor("x", "BF16", (1, 2), bytes([1, 2, 3, value])) for value in (4, 5)]
    got = answers(backend, [Request(tensors=[tensor]) for tensor in sent])
    assert [bytes(answer.tensors[0].data) for answer in got] == [tensor.data for tensor in sent]
    assert got[0].tensors[0].datatype == "BF16"


def test_an_optional_input_has_a_default(tmp_path: Path) -> None:
    default = numpy_helper.from_array(np.full((1, 2), 10, np.float32), "b")
    inputs: list[Info] = [("x", FLOAT, ["N", 2]), ("b", FLOAT, [1, 2])]
    save(tmp_path, [helper.make_node("Add", ["x", "b"], ["y"])], inputs, [("y", FLOAT, ["N", 2])], [default])
    backend = loaded(
        config(
            tmp_path,
            "onnxruntime",
            [spec("x", 2), spec("b", 2, optional=True)],
            [spec("y", 2)],
            rows=1,
        )
    )
    ones = np.ones((1, 2), np.float32)
    with_default, given = answers(backend, [request(x=ones), request(x=ones, b=ones)])
    assert arrays(with_default)["y"].tolist() == [[11.0, 11.0]]
    assert arrays(given)["y"].tolist() == [[2.0, 2.0]]


def test_a_fixed_batch_axis_is_told_at_load(tmp_path: Path) -> None:
    save_identity(tmp_path, FLOAT, batch=1)
    with pytest.raises(CannotLoad, match=r"tensor 'x': the model expects 2 dimensions \(shape \[1, 2\]\).* shape \[-1, 2\]"):
        loaded(model(tmp_path))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([spec("a", 2)], [spec("y", 2)], "unexpected inference input 'a', allowed inputs are: x"),
        ([spec("x", 2)], [spec("z", 2)], "unexpected inference output 'z', allowed outputs are: y"),
        ([spec("x", 2, datatype="INT8")], [spec("y", 2)], "input 'x' of model 'm' is FP32, but configured as INT8"),
        ([spec("x", 2, 1)], [spec("y", 2)], r"expects 2 dimensions \(shape \[-1, 2\]\) but .* specifies 3 dimensions"),
        ([spec("x", 5)], [spec("y", 2)], r"making complete shape \[-1, 5\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, inputs: Any, outputs: Any, message: str) -> None:
    save_identity(tmp_path, FLOAT)
    with pytest.raises(CannotLoad, match=message):
        loaded(config(tmp_path, "onnxruntime", inputs, outputs))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(CannotLoad, match=r"model\.onnx cannot be loaded: onnx runtime error 7: "):
        loaded(model(tmp_path))
    with pytest.raises(CannotLoad, match=r"else\.onnx does not exist"):
        loaded(model(tmp_path, filename="else.onnx"))


def test_threads_and_levels_come_from_the_configuration(tmp_path: Path) -> None:
    instance = Instance("m_0", threads=3)
    plain = session_options(model(tmp_path), instance)
    assert (plain.intra_op_num_threads, plain.inter_op_num_threads) == (3, 1)
    assert plain.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert plain.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert plain.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    parameters = {"intra_op_thread_count": "2", "inter_op_thread_count": "5", "execution_mode": "1"}
    parameters |= {"enable_mem_arena": "0", "enable_mem_pattern": "0", "session.intra_op.allow_spinning": "1"}
    set_up = session_options(model(tmp_path, parameters=parameters, optimization={"graph": {"level": -1}}), instance)
    assert (set_up.intra_op_num_threads, set_up.inter_op_num_threads) == (2, 5)
    assert set_up.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert set_up.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert (set_up.enable_cpu_mem_arena, set_up.enable_mem_pattern) == (False, False)
    assert set_up.get_session_config_entry("session.intra_op.allow_spinning") == "1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"intra_op_thread_count": "two"}}, "failed to convert intra_op_thread_count 'two'"),
        ({"parameters": {"execution_mode": "2"}}, "execution_mode must be 0 .* got 2"),
        ({"optimization": {"graph": {"level": 7}}}, r"graph\.level must be one of .* got 7"),
        (
            {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}},
            "unknown Execution Accelerator 'openvino' is requested",
        ),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    save_identity(tmp_path, FLOAT)
    with pytest.raises(CannotLoad, match=message):
        loaded(model(tmp_path, **fields))


def test_no_gpu_no_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_identity(tmp_path, FLOAT)
    backend = loaded(model(tmp_path, parameters={"memory.enable_memory_arena_shrinkage": "cpu:0"}))
    assert isinstance(backend, OnnxBackend)
    assert backend.session.get_providers() == ["CPUExecutionProvider"]
    answers(backend, [request(x=np.zeros((1, 2), np.float32))])
    assert capfd.readouterr() == ("", "")


def test_a_gpu_instance_needs_the_cuda_provider(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(CannotLoad, match="has no CUDA provider"):
        providers(model(tmp_path), Instance("m_0", "KIND_GPU", 0))


def test_cuda_options_in_onnx_runtimes_words() -> None:
    given = {"cudnn_conv_algo_search": "1", "gpu_mem_limit": "1000", "arena_extend_strategy": "1", "other": "x"}
    expected = {"cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": 1000, "arena_extend_strategy": "kSameAsRequested"}
    assert cuda_options(given) == expected
    with pytest.raises(CannotLoad, match="arena_extend_strategy must be between 0 and 1, got 2"):
        cuda_options({"arena_extend_strategy": "2"})


@pytest.mark.gpu
def test_on_cuda_the_answers_are_the_cpus(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")
    weight = save_linear(tmp_path)
    backend = loaded(config(tmp_path, "onnxruntime", [spec("x", 4)], [spec("y", 3)]), gpu=0)
    assert isinstance(backend, OnnxBackend)
    assert backend.session.get_providers()[0] == "CUDAExecutionProvider"
    sent = [np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32) for seed in range(4)]
    for array, answer in zip(sent, answers(backend, [request(x=array) for array in sent]), strict=True):
        np.testing.assert_allclose(arrays(answer)["y"], array @ weight, atol=1e-2)


def test_binding_answers_as_feeding_does(tmp_path: Path) -> None:
    weight = save_linear(tmp_path)
    fields: dict[str, Any] = {
        "parameters": {"io_binding": "true", "memory.enable_memory_arena_shrinkage": "cpu:0", "batch_sizes": "4,32"}
    }
    backend = loaded(config(tmp_path, "onnxruntime", [spec("x", 4)], [spec("minus", 4), spec("y", 3)], **fields))
    assert isinstance(backend, OnnxBackend)
    assert backend.binding is not None
    sent = [np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32) for seed, rows in enumerate([1, 4, 2])]
    for array, answer in zip(sent, answers(backend, [request(x=array) for array in sent]), strict=True):
        np.testing.assert_allclose(arrays(answer)["y"], array @ weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(arrays(answer)["minus"], -array)


def test_strings_cannot_be_bound(tmp_path: Path) -> None:
    save_identity(tmp_path, STRING)
    with pytest.raises(CannotLoad, match="io_binding: model 'm' has BYTES tensors"):
        loaded(model(tmp_path, "BYTES", parameters={"io_binding": "true"}))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"warmup": "off"}, "needs warm-up"),
        ({"io_binding": "false"}, "needs io_binding"),
    ],
)
def test_graphs_need_what_they_are_made_of(tmp_path: Path, parameters: dict[str, str], words: str) -> None:
    target = model(tmp_path, parameters={"cuda_graphs": "true", **parameters})
    with pytest.raises(CannotLoad, match=words):
        uses_graphs(target, on_gpu=True)
    assert not uses_graphs(target, on_gpu=False)
    with pytest.raises(CannotLoad, match="BYTES and BF16"):
        uses_graphs(model(tmp_path, "BF16", parameters={"cuda_graphs": "true"}), on_gpu=True)


def test_fixed_memory_is_refilled_for_each_batch(tmp_path: Path) -> None:
    """The path of CUDA graphs, with memory of the CPU: the same places bound for every batch of a shape."""
    weight = save_linear(tmp_path)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    binding = Binding(session, ["y"], ("cpu", 0), graphs=True)
    for seed in range(3):
        array = np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32)
        got = binding.run({"x": Array("FP32", array)}, capture=seed == 0)
        np.testing.assert_allclose(got["y"].values, array @ weight, rtol=1e-5, atol=1e-6)
    assert binding.captured == 1
    other = np.ones((3, 4), np.float32)
    np.testing.assert_allclose(binding.run({"x": Array("FP32", other)})["y"].values, other @ weight, rtol=1e-5)
    assert binding.captured == 1


def test_what_is_measured_has_a_graph_of_its_own_for_each_size(tmp_path: Path) -> None:
    """ONNX Runtime replays the graph of the number that it is given, whatever the inputs' shapes."""
    save_linear(tmp_path)
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    binding = Binding(session, ["y"], ("cpu", 0), graphs=True)
    for rows in (1, 4):
        binding.again({"x": Array("FP32", np.ones((rows, 4), np.float32))})()
    assert binding.captured == 2
    shapes = [fixed.outputs[0].shape() for fixed in binding._fixed.values()]
    numbers = [fixed.options.get_run_config_entry("gpu_graph_id") for fixed in binding._fixed.values()]
    assert (shapes, numbers) == ([[1, 3], [4, 3]], ["1", "2"])


@pytest.mark.gpu
@pytest.mark.parametrize("search", ["0", "1", "2"])
def test_on_cuda_graphs_and_conv_search_answer_the_same(tmp_path: Path, search: str) -> None:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")
    weight = save_linear(tmp_path)
    parameters = {"cuda_graphs": "true", "cudnn_conv_algo_search": search}
    target = config(tmp_path, "onnxruntime", [spec("x", 4)], [spec("y", 3)], 8, parameters=parameters)
    backend = loaded(target, gpu=0)
    assert isinstance(backend, OnnxBackend)
    assert backend.binding is not None
    assert backend.binding.captured == 4
    for seed, rows in enumerate([1, 3, 8, 2, 5]):
        array = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
        (answer,) = answers(backend, [request(x=array)])
        np.testing.assert_allclose(arrays(answer)["y"], array @ weight, atol=1e-2)
    assert backend.binding.captured == 4
