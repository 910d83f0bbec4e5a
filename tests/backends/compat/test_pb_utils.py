"""`triton_python_backend_utils` where it needs no server: tensors, errors, configuration, helpers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.dlpack
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from jitney.backends.python import COMPAT
from jitney.core import tensor as wire


@pytest.fixture(scope="module")
def pb_utils() -> Iterator[ModuleType]:
    sys.path.insert(0, str(COMPAT))
    yield importlib.import_module("triton_python_backend_utils")
    sys.path.remove(str(COMPAT))
    for name in [name for name in sys.modules if name.startswith("triton_python_backend_utils")]:
        del sys.modules[name]


DTYPES = [name for name in wire.NUMPY_DTYPES if name != "BF16"]


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_numeric_datatype_crosses_both_ways(pb_utils: Any, datatype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]], wire.NUMPY_DTYPES[datatype])
    tensor = pb_utils.Tensor("x", array)
    sent = tensor.to_wire()
    assert (sent.name, sent.datatype, sent.shape) == ("x", datatype, (2, 3))
    back = pb_utils.Tensor.from_wire(sent)
    np.testing.assert_array_equal(back.as_numpy(), array)
    assert back.as_numpy().dtype == array.dtype
    assert (back.name(), back.shape(), back.is_cpu()) == ("x", [2, 3], True)
    assert pb_utils.triton_to_numpy_type(back.triton_dtype()) == array.dtype.type
    assert pb_utils.numpy_to_triton_type(array.dtype.type) == back.triton_dtype()
    assert np.dtype(pb_utils.triton_string_to_numpy(f"TYPE_{datatype}")) == array.dtype


def test_an_array_that_is_not_contiguous_is_copied(pb_utils: Any) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = pb_utils.Tensor("x", array.T)
    np.testing.assert_array_equal(tensor.as_numpy(), array.T)
    assert tensor.as_numpy().flags.c_contiguous
    np.testing.assert_array_equal(pb_utils.Tensor.from_wire(tensor.to_wire()).as_numpy(), array.T)


def test_scalars_and_empty_arrays(pb_utils: Any) -> None:
    assert pb_utils.Tensor("x", np.float32(3)).to_wire().shape == ()
    assert pb_utils.Tensor("x", np.full((), 3)).as_numpy() == 3
    assert pb_utils.Tensor("x", [[1, 2]]).to_wire().datatype == "INT64"
    assert pb_utils.Tensor("x", np.empty((0, 2), np.int8)).to_wire().shape == (0, 2)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[b"a", b""], ["h\u00e9".encode(), b"\x00\xff"]], object),
        np.array([["a", ""], ["h\u00e9", "b"]], object),
        np.array([["a", "bc"]]),
        np.array([[b"a", b"bc"]]),
        np.array([[1, 2.5], [None, True]], object),
    ],
)
def test_strings_are_bytes_tensors(pb_utils: Any, array: Any) -> None:
    tensor = pb_utils.Tensor("s", array)
    assert tensor.triton_dtype() == 13
    back = pb_utils.Tensor.from_wire(tensor.to_wire()).as_numpy()
    wanted = [e if isinstance(e, bytes) else str(e).encode() for e in array.reshape(-1).tolist()]
    assert back.dtype == np.object_
    assert back.reshape(-1).tolist() == wanted
    assert back.shape == array.shape
    packed = pb_utils.serialize_byte_tensor(array)
    assert pb_utils.deserialize_bytes_tensor(packed).tolist() == wanted


def test_a_tensor_needs_a_numpy_array_of_a_known_type(pb_utils: Any) -> None:
    with pytest.raises(pb_utils.TritonModelException, match="'x' needs a numpy array, got dict"):
        pb_utils.Tensor("x", {"a": 1})
    with pytest.raises(pb_utils.TritonModelException, match=r"'x'.*complex128"):
        pb_utils.Tensor("x", np.zeros(2, np.complex128))


def test_dlpack_shares_memory_both_ways(pb_utils: Any) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    view = torch.utils.dlpack.from_dlpack(pb_utils.Tensor("x", array))
    view += 1
    assert array[0, 0] == 1
    np.testing.assert_array_equal(from_dlpack(pb_utils.Tensor("x", array).to_dlpack()).numpy(), array)
    source = torch.arange(4, dtype=torch.int64)
    for given in (source, to_dlpack(source)):
        tensor = pb_utils.Tensor.from_dlpack("y", given)
        assert (tensor.name(), tensor.shape(), tensor.is_cpu()) == ("y", [4], True)
        source += 1
        assert tensor.as_numpy().tolist() == source.tolist()


def test_dlpack_of_memory_that_must_not_be_written_is_a_copy(pb_utils: Any) -> None:
    array = np.array([1, 2], np.float32)
    array.flags.writeable = False
    view = torch.utils.dlpack.from_dlpack(pb_utils.Tensor("x", array))
    view += 1
    assert array.tolist() == [1, 2]


def test_a_request_may_be_changed_by_its_model(pb_utils: Any) -> None:
    tensor = pb_utils.Tensor.from_wire(wire.Tensor("x", "FP32", (2,), np.array([1, 2], np.float32).tobytes()))
    tensor.as_numpy()[0] = 5
    assert tensor.as_numpy().tolist() == [5, 2]


def test_dlpack_needs_an_object_or_an_unused_capsule(pb_utils: Any) -> None:
    capsule = to_dlpack(torch.zeros(2))
    torch.utils.dlpack.from_dlpack(capsule)
    for given in (capsule, "text"):
        with pytest.raises(pb_utils.TritonModelException, match="needs a DLPack object or an unused capsule"):
            pb_utils.Tensor.from_dlpack("x", given)
    with pytest.raises(pb_utils.TritonModelException, match="string tensors"):
        pb_utils.Tensor("s", np.array(["a"], object)).to_dlpack()


def test_bfloat16_crosses_by_dlpack_only(pb_utils: Any) -> None:
    source = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    tensor = pb_utils.Tensor.from_dlpack("x", source)
    assert (tensor.triton_dtype(), tensor.shape(), tensor.is_cpu()) == (14, [2], True)
    sent = tensor.to_wire()
    assert (sent.datatype, sent.shape, sent.nbytes) == ("BF16", (2,), 4)
    back = pb_utils.Tensor.from_wire(sent)
    with pytest.raises(pb_utils.TritonModelException, match="BF16"):
        back.as_numpy()
    found = from_dlpack(back)
    assert found.dtype is torch.bfloat16
    assert found.tolist() == [1.5, -2.0]
    with pytest.raises(pb_utils.TritonModelException, match="TYPE_BF16"):
        pb_utils.triton_string_to_numpy("TYPE_BF16")


DLPACK_DTYPES = [
    (torch.bool, "BOOL"),
    (torch.uint8, "UINT8"),
    (torch.uint16, "UINT16"),
    (torch.uint32, "UINT32"),
    (torch.uint64, "UINT64"),
    (torch.int8, "INT8"),
    (torch.int16, "INT16"),
    (torch.int32, "INT32"),
    (torch.int64, "INT64"),
    (torch.float16, "FP16"),
    (torch.bfloat16, "BF16"),
    (torch.float32, "FP32"),
    (torch.float64, "FP64"),
]


@pytest.mark.parametrize("as_capsule", [False, True])
@pytest.mark.parametrize(("dtype", "datatype"), DLPACK_DTYPES)
def test_dlpack_carries_every_datatype(pb_utils: Any, dtype: torch.dtype, datatype: str, as_capsule: bool) -> None:
    source = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    tensor = pb_utils.Tensor.from_dlpack(b"x", to_dlpack(source) if as_capsule else source)
    assert (tensor.name(), tensor.shape(), tensor.is_cpu()) == ("x", [2, 2], True)
    assert tensor.triton_dtype() == pb_utils.Tensor.from_wire(tensor.to_wire()).triton_dtype()
    source[0, 0] = 1
    sent = tensor.to_wire()
    assert (sent.datatype, sent.shape) == (datatype, (2, 2))
    bits = source.view(torch.uint8).numpy() if source.element_size() > 1 else source.numpy()
    assert bytes(sent.data) == bits.tobytes(), "the memory is shared, and sent bit by bit"
    for back in (from_dlpack(tensor), from_dlpack(tensor.to_dlpack())):
        assert back.dtype is dtype
        assert torch.equal(back, source)
    again = pb_utils.Tensor.from_dlpack("y", tensor)
    assert bytes(again.to_wire().data) == bytes(sent.data)


def test_dlpack_refuses_what_cannot_be_sent(pb_utils: Any) -> None:
    for given in (
        torch.ones(2, requires_grad=True),
        torch.ones(2, dtype=torch.complex64),
        to_dlpack(torch.ones(2, dtype=torch.complex64)),
        torch.ones(2).to(torch.float8_e5m2),
        None,
        [1.0],
    ):
        with pytest.raises(pb_utils.TritonModelException, match="'x' needs a DLPack object"):
            pb_utils.Tensor.from_dlpack("x", given)


def test_what_is_not_contiguous_is_copied_from_dlpack(pb_utils: Any) -> None:
    source = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
    back = from_dlpack(pb_utils.Tensor.from_dlpack("x", source))
    assert back.is_contiguous()
    assert torch.equal(back, source)


@pytest.mark.parametrize("name", [b"x", bytearray(b"x"), np.str_("x"), np.bytes_(b"x")])
def test_names_may_be_bytes_or_numpy_text(pb_utils: Any, name: Any) -> None:
    tensor = pb_utils.Tensor(name, np.zeros(1))
    assert (tensor.name(), type(tensor.name())) == ("x", str)
    assert pb_utils.get_output_tensor_by_name(pb_utils.InferenceResponse([tensor]), "x") is tensor


@pytest.mark.parametrize("name", [None, 5, b"\xff", "\ud800", ["x"], np.array("x")])
def test_a_name_that_is_no_text_is_refused(pb_utils: Any, name: Any) -> None:
    with pytest.raises(pb_utils.TritonModelException, match="a Tensor's name"):
        pb_utils.Tensor(name, np.zeros(1))


def test_packed_strings_of_any_buffer(pb_utils: Any) -> None:
    packed = b"\x01\0\0\0a\0\0\0\0"
    assert pb_utils.serialize_byte_tensor(np.array([[b"a", ""]], object)) == packed
    assert pb_utils.serialize_byte_tensor(np.array([], object)) == ()
    for given in (packed, bytearray(packed), memoryview(packed), np.frombuffer(packed, np.uint8)):
        assert pb_utils.deserialize_bytes_tensor(given).tolist() == [b"a", b""]
    for wrong in (packed[:2], packed[:4], "text", 5, None):
        with pytest.raises(pb_utils.TritonModelException, match="no packed BYTES tensor"):
            pb_utils.deserialize_bytes_tensor(wrong)
    with pytest.raises(pb_utils.TritonModelException, match="got float64"):
        pb_utils.serialize_byte_tensor(np.zeros(2))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (["x"], "got <class 'list'>"),
        ([], "got <class 'list'>"),
        ({1: "x"}, "Expect parameters keys to have type str, found type <class 'int'>"),
        ({b"k": "x"}, "Expect parameters keys to have type str, found type <class 'bytes'>"),
        ({"k": 0.5}, "Expect parameters values to have type bool/int/str, found type <class 'float'>"),
        ({"k": None}, "Expect parameters values to have type bool/int/str, found type <class 'NoneType'>"),
        ({"k": ["x"]}, "Expect parameters values to have type bool/int/str, found type <class 'list'>"),
        ({"k": {"x": 1}}, "Expect parameters values to have type bool/int/str, found type <class 'dict'>"),
        ({"k": b"x"}, "Expect parameters values to have type bool/int/str, found type <class 'bytes'>"),
        ({"k": np.int64(1)}, "Expect parameters values to have type bool/int/str, found type <class 'numpy.int64'>"),
        ({"k": 2**64}, "a parameter's value must be between"),
    ],
)
def test_parameters_are_bool_int_or_text(pb_utils: Any, parameters: Any, text: str) -> None:
    for made in (pb_utils.InferenceResponse, lambda **named: pb_utils.InferenceRequest(model_name="m", **named)):
        with pytest.raises(pb_utils.TritonModelException) as raised:
            made(parameters=parameters)
        assert text in str(raised.value)


def test_log_levels_are_tritons(pb_utils: Any, caplog: pytest.LogCaptureFixture) -> None:
    logger = pb_utils.Logger
    assert [(level.name, int(level)) for level in logger.LogLevel] == [
        ("INFO", 0),
        ("WARNING", 1),
        ("ERROR", 2),
        ("VERBOSE", 3),
    ]
    assert (logger.INFO, logger.VERBOSE) == (logger.LogLevel.INFO, logger.LogLevel.VERBOSE)
    caplog.set_level("DEBUG", "jitney.python_model")
    logger.log(b"h\xc3\xa9", logger.LogLevel.WARNING)
    logger.log("plain", np.int64(2))
    logger.log_verbose(ValueError("odd"))
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "hé"),
        ("ERROR", "plain"),
        ("DEBUG", "odd"),
    ]
    with pytest.raises(pb_utils.TritonModelException, match=r"Logger\.VERBOSE"):
        logger.log("text", 9)


def test_errors_carry_tritons_codes(pb_utils: Any) -> None:
    error = pb_utils.TritonError("text")
    assert (error.message(), error.code()) == ("text", pb_utils.TritonError.INTERNAL)
    codes = ["UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"]
    assert [getattr(pb_utils.TritonError, code) for code in codes] == list(range(8))
    with pytest.raises(ValueError, match="unknown TritonError code 99"):
        pb_utils.TritonError("text", 99)


def test_a_response_is_tensors_or_an_error(pb_utils: Any) -> None:
    tensor = pb_utils.Tensor("y", np.zeros(1, np.float32))
    response = pb_utils.InferenceResponse(output_tensors=[tensor], parameters={"k": 1, "s": "v"})
    assert not response.has_error()
    assert pb_utils.get_output_tensor_by_name(response, "y") is tensor
    assert pb_utils.get_output_tensor_by_name(response, "z") is None
    assert response.parameters() == '{"k": 1, "s": "v"}'
    failed = pb_utils.InferenceResponse(error=pb_utils.TritonError("no"))
    assert failed.has_error()
    assert pb_utils.get_output_tensor_by_name(failed, "y") is None
    with pytest.raises(pb_utils.TritonModelException, match=r"pb_utils\.Tensor"):
        pb_utils.InferenceResponse([np.zeros(1)])
    with pytest.raises(pb_utils.TritonModelException, match="TritonError, got str"):
        pb_utils.InferenceResponse(error="text")


def test_a_request_of_the_models_own(pb_utils: Any) -> None:
    tensor = pb_utils.Tensor("x", np.zeros(1, np.float32))
    request = pb_utils.InferenceRequest("id", 5, [tensor], ["y"], "m", 2, flags=1, timeout=9, parameters={"a": 1})
    assert (request.request_id(), request.correlation_id(), request.flags(), request.timeout()) == ("id", 5, 1, 9)
    assert (request.inputs(), request.requested_output_names()) == ([tensor], {"y"})
    assert request.parameters() == '{"a":1}'
    assert pb_utils.InferenceRequest(model_name="m", parameters={"é": "☃"}).parameters() == '{"é":"☃"}'
    with pytest.raises(TypeError, match="model_name must be a str"):
        pb_utils.InferenceRequest(inputs=[tensor], requested_output_names=["y"])
    assert request._to_other().parameters == {"a": 1, "triton_sequence_id": 5, "triton_flags": 1, "triton_timeout": 9}
    request.set_flags(pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)
    assert request.flags() == 2
    with pytest.raises(pb_utils.TritonModelException, match="received"):
        request.get_response_sender()
    with pytest.raises(pb_utils.TritonModelException, match="iterative"):
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
    request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
    with pytest.raises(pb_utils.TritonModelException, match=r"pb_utils\.Tensor"):
        pb_utils.InferenceRequest(inputs=[None])


def test_what_needs_a_server_says_so(pb_utils: Any) -> None:
    family = pb_utils.MetricFamily("name", "text", pb_utils.MetricFamily.GAUGE)
    for attempt in (pb_utils.get_model_dir, lambda: pb_utils.is_model_ready("m"), lambda: family.Metric().set(1)):
        with pytest.raises(pb_utils.TritonModelException, match="needs a running server"):
            attempt()


def test_what_the_server_refuses_begins_with_what_was_tried(pb_utils: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("there is no such model")

    worker = SimpleNamespace(host=SimpleNamespace(control=refuse))
    monkeypatch.setattr(sys.modules[pb_utils.load_model.__module__], "current", lambda: worker)
    for attempt, text in (
        (pb_utils.load_model, "Failed to load model: failed to load 'm': there is no such model"),
        (pb_utils.unload_model, "Failed to unload model 'm': there is no such model"),
        (pb_utils.is_model_ready, "Failed to check model readiness of 'm': there is no such model"),
    ):
        with pytest.raises(pb_utils.TritonModelException) as caught:
            attempt("m")
        assert str(caught.value) == text


def test_metrics_refuse_what_their_kind_cannot_do(pb_utils: Any) -> None:
    family = pb_utils.MetricFamily
    with pytest.raises(pb_utils.TritonModelException, match="buckets"):
        family("h", "", family.HISTOGRAM).Metric()
    with pytest.raises(pb_utils.TritonModelException, match="buckets"):
        family("c", "").Metric(buckets=[1])
    for attempt in (
        lambda: family("c", "").Metric().set(1),
        lambda: family("c", "").Metric().increment(-1),
        lambda: family("g", "", family.GAUGE).Metric().observe(1),
        lambda: family("h", "", family.HISTOGRAM).Metric(buckets=[1]).increment(1),
        lambda: family("k", "", "sum"),
        lambda: family("no name", ""),
        lambda: family("g", "", family.GAUGE).Metric().set("1"),
        lambda: family("g", "", family.GAUGE).Metric(["x"]),
        lambda: family("g", "", family.GAUGE).Metric({"no label": "x"}),
        lambda: family("g", "", family.GAUGE).Metric({"k": 1}),
        lambda: family("h", "", family.HISTOGRAM).Metric(buckets=[2, 1]),
        lambda: family("h", "", family.HISTOGRAM).Metric(buckets=[float("inf")]),
    ):
        with pytest.raises(pb_utils.TritonModelException):
            attempt()  # type: ignore[no-untyped-call]


@pytest.fixture
def sent(pb_utils: Any) -> list[tuple[str, str, float]]:
    """Name, verb and value of each change of a metric that the worker sent."""
    found: list[tuple[str, str, float]] = []

    class Emitting:
        def emit(self, kind: str, payload: Any) -> None:
            found.append((payload["name"], payload["verb"], payload["value"]))

    worker = importlib.import_module("triton_python_backend_utils._worker")
    worker.connect(worker.Worker(Emitting(), "m", "1", ""))
    return found


def test_metrics_of_the_same_name_and_labels_are_one(pb_utils: Any, sent: list[Any]) -> None:
    family = pb_utils.MetricFamily("c", "first", pb_utils.MetricFamily.COUNTER)
    again = pb_utils.MetricFamily("c", "second", pb_utils.MetricFamily.COUNTER)
    one, other = family.Metric({"a": "x", "b": "y"}), again.Metric({"b": "y", "a": "x"})
    one.increment(7.5)
    assert (one.value(), other.value(), family.Metric({"a": "z"}).value()) == (7.5, 7.5, 0)
    del one
    other.increment(1)
    assert other.value() == 8.5
    del other
    assert family.Metric({"a": "x", "b": "y"}).value() == 0
    assert sent == [("c", "declare", 0), ("c", "increment", 7.5), ("c", "declare", 0), ("c", "increment", 1)]


def test_a_family_of_another_kind_is_refused_while_the_first_lives(pb_utils: Any) -> None:
    family = pb_utils.MetricFamily("f", "", pb_utils.MetricFamily.COUNTER)
    with pytest.raises(pb_utils.TritonModelException, match="'f' is a counter already, and cannot be a gauge too"):
        pb_utils.MetricFamily("f", "", pb_utils.MetricFamily.GAUGE)
    del family
    assert pb_utils.MetricFamily("f", "", pb_utils.MetricFamily.GAUGE).Metric().value() == 0


CONFIG: dict[str, Any] = {
    "name": "m",
    "max_batch_size": 0,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [],
    "model_transaction_policy": {"decoupled": True},
}


def test_config_helpers(pb_utils: Any) -> None:
    assert pb_utils.get_input_config_by_name(CONFIG, "x")["dims"] == [2]
    assert pb_utils.get_input_config_by_name(CONFIG, "y") is None
    assert pb_utils.get_output_config_by_name(CONFIG, "y") is None
    assert pb_utils.using_decoupled_model_transaction_policy(CONFIG)
    assert not pb_utils.using_decoupled_model_transaction_policy({})
    assert (pb_utils.triton_string_to_numpy("TYPE_BOOL"), pb_utils.triton_to_numpy_type(1)) == (bool, np.bool_)
    with pytest.raises(pb_utils.TritonModelException, match="'FP32' has no numpy type"):
        pb_utils.triton_string_to_numpy("FP32")


def test_auto_completion_fills_in_what_is_missing(pb_utils: Any) -> None:
    config = pb_utils.ModelConfig(CONFIG)
    config.set_max_batch_size(8)
    config.set_dynamic_batching()
    config.add_input({"name": "x", "data_type": "TYPE_FP32", "dims": [2], "optional": True})
    config.add_input({"name": "z", "data_type": "TYPE_INT8", "dims": [1]})
    config.add_output({"name": "y", "data_type": "TYPE_FP32", "dims": [-1]})
    config.set_model_transaction_policy({"decoupled": True})
    found = config.as_dict()
    assert (found["max_batch_size"], found["dynamic_batching"]) == (8, {})
    assert [(entry["name"], entry.get("optional")) for entry in found["input"]] == [("x", True), ("z", None)]
    assert found["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}]
    assert CONFIG["max_batch_size"] == 0, "the given document is not changed"


@pytest.mark.parametrize(
    ("verb", "argument", "text"),
    [
        ("add_input", {"name": "x", "data_type": "TYPE_INT8", "dims": [2]}, "data_type TYPE_FP32, the model says TYPE_INT8"),
        ("add_input", {"name": "x", "data_type": "TYPE_FP32", "dims": [3]}, "dims"),
        ("add_input", {"name": "q", "data_type": "TYPE_FP32"}, "lacks the property 'dims'"),
        ("add_output", {"name": "q", "data_type": "TYPE_FP32", "dims": [1], "optional": True}, "no property 'optional'"),
        ("set_model_transaction_policy", {"decoupled": False}, "decoupled True"),
        ("set_model_transaction_policy", {"coupled": True}, "exactly the property"),
    ],
)
def test_auto_completion_refuses_contradictions(pb_utils: Any, verb: str, argument: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        getattr(pb_utils.ModelConfig(CONFIG), verb)(argument)


def test_auto_completion_respects_a_chosen_scheduler_and_batch_size(pb_utils: Any) -> None:
    config = pb_utils.ModelConfig({**CONFIG, "max_batch_size": 4, "sequence_batching": {}})
    with pytest.raises(ValueError, match="sequence_batching"):
        config.set_dynamic_batching()
    with pytest.raises(ValueError, match="max_batch_size 4"):
        config.set_max_batch_size(2)
