"""Each field that means nothing here is refused with its line, or accepted with a line in the log; none is passed over."""

from __future__ import annotations

import logging

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.fields import REFUSED, WITHOUT_MEANING
from jitney.tests.fakes.repository import TENSORS, Folder

#: One sample for each refused field. The line with the field is marked by being the last one that a sample begins with "\\n".
REFUSED_SAMPLES = {
    "batch_input": "\nbatch_input [ { kind: BATCH_ELEMENT_COUNT target_name: 'n' data_type: TYPE_FP32 source_input: 'x' } ]",
    "batch_output": "\nbatch_output [ { target_name: 'y' kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: 'x' } ]",
    "cc_model_filenames": "\ncc_model_filenames { key: '8.0' value: 'model.py' }",
    "model_operations.op_library_filename": "model_operations {\n op_library_filename: 'lib.so' }",
    "model_repository_agents": "\nmodel_repository_agents { agents [ { name: 'checksum' } ] }",
    "instance_group.host_policy": "instance_group [ { kind: KIND_CPU\n host_policy: 'numa' } ]",
    "instance_group.passive": "instance_group [ { kind: KIND_CPU\n passive: true } ]",
    "instance_group.secondary_devices": "instance_group [ {\n secondary_devices { device_id: 1 } } ]",
    "sequence_batching.iterative_sequence": "sequence_batching {\n iterative_sequence: true }",
    "parameters.TRITON_BATCH_STRATEGY_PATH": (
        "parameters { key: 'TRITON_BATCH_STRATEGY_PATH' value { string_value: '/lib.so' } }"
    ),
    "ensemble_scheduling.max_inflight_requests": "ensemble_scheduling {\n max_inflight_requests: 2 }",
    "ensemble_scheduling.step.model_namespace": "ensemble_scheduling { step {\n model_namespace: 'n' } }",
}
WITHOUT_MEANING_SAMPLES = {
    "input.format": "input [ { name: 'i' data_type: TYPE_UINT8 dims: [ 3, 4, 4 ] format: FORMAT_NCHW } ]",
    "instance_group.rate_limiter": "instance_group [ { kind: KIND_CPU rate_limiter { priority: 2 } } ]",
    "model_metrics": "model_metrics { metric_control { metric_identifier { family: 'f' } histogram_options { buckets: 1 } } }",
    "optimization.priority": "optimization { priority: PRIORITY_MAX }",
    "optimization.cuda": "optimization { cuda { graphs: true } }",
    "optimization.input_pinned_memory": "optimization { input_pinned_memory { enable: false } }",
    "optimization.output_pinned_memory": "optimization { output_pinned_memory { enable: false } }",
    "optimization.gather_kernel_buffer_threshold": "optimization { gather_kernel_buffer_threshold: 10 }",
    "optimization.eager_batching": "optimization { eager_batching: true }",
    "sequence_batching.state.use_same_buffer_for_input_output": (
        "sequence_batching { state { input_name: 'i' use_same_buffer_for_input_output: true } }"
    ),
    "sequence_batching.state.use_growable_memory": (
        "sequence_batching { state { input_name: 'i' use_growable_memory: true } }"
    ),
}


def test_there_is_a_sample_for_every_field() -> None:
    assert set(REFUSED_SAMPLES) == set(REFUSED)
    assert set(WITHOUT_MEANING_SAMPLES) == set(WITHOUT_MEANING)


@pytest.mark.parametrize("field", REFUSED_SAMPLES)
def test_a_refused_field_is_named_with_its_line_and_the_reason(folder: Folder, field: str) -> None:
    config = f'name: "m"\nbackend: "python"\n{REFUSED_SAMPLES[field]}\n'
    if field.startswith("ensemble"):
        config = config.replace('backend: "python"', 'platform: "ensemble"')
    path = folder.model("m", config) / "config.pbtxt"
    line = next(n for n, text in enumerate(config.splitlines(), 1) if field.rpartition(".")[2] in text)
    with pytest.raises(InvalidConfig) as caught:
        folder.read("m")
    assert str(caught.value) == f"{path}:{line}: '{field}' is not supported: {REFUSED[field]}, for m"


@pytest.mark.parametrize("field", WITHOUT_MEANING_SAMPLES)
def test_a_field_without_meaning_is_accepted_and_logged(
    folder: Folder, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.python("m", WITHOUT_MEANING_SAMPLES[field])
    with caplog.at_level(logging.INFO):
        assert folder.read("m").config_json[field.split(".")[0]]
    [message] = [record.getMessage() for record in caplog.records if "has no effect here" in record.getMessage()]
    assert f"config.pbtxt:4: '{field}'" in message and WITHOUT_MEANING[field] in message


def test_what_is_given_as_it_is_by_default_is_no_matter(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.python(
        "m", "instance_group { kind: KIND_CPU passive: false host_policy: '' } optimization { eager_batching: false }"
    )
    with caplog.at_level(logging.INFO):
        folder.read("m")
    assert not caplog.records


def test_a_number_that_is_no_enum_value_is_refused(folder: Folder) -> None:
    folder.model("m", 'backend: "python"\ninput [ { name: "x"\n data_type: 99 dims: 1 } ]')
    with pytest.raises(
        InvalidConfig, match=r"config.pbtxt:3: 'input.data_type' is 99, expected one of TYPE_INVALID, TYPE_BOOL"
    ):
        folder.read("m")


@pytest.mark.parametrize("runtime", ["", "libtriton_python.so"])
def test_the_default_runtime_is_accepted(folder: Folder, runtime: str) -> None:
    folder.python("m", f'runtime: "{runtime}"')
    assert folder.read("m").backend == "python"


def test_another_runtime_is_refused(folder: Folder) -> None:
    folder.python("m", 'runtime: "libmine.so"')
    with pytest.raises(InvalidConfig, match=r":4: 'runtime' is not supported: got 'libmine.so'"):
        folder.read("m")


def test_accelerators_are_for_onnx_runtime_and_known_by_name(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    accelerate = "optimization { execution_accelerators { gpu_execution_accelerator [ { name: '%s' } ] } }"
    onnx = f'backend: "onnxruntime"{TENSORS}{accelerate}'
    folder.model("known", onnx % "tensorrt")
    accelerators = folder.read("known").optimization["execution_accelerators"]
    assert accelerators["gpu_execution_accelerator"] == [{"name": "tensorrt", "parameters": {}}]
    folder.model("unknown", onnx % "openvino")
    with pytest.raises(InvalidConfig, match="unknown Execution Accelerator 'openvino' is requested for unknown"):
        folder.read("unknown")
    folder.python("other", accelerate % "mine")
    with caplog.at_level(logging.INFO):
        folder.read("other")
    assert "'mine' has no effect on backend 'python'" in caplog.text


def test_a_map_written_as_braces_is_empty(folder: Folder) -> None:
    """Text format makes an entry of nothing for nothing of it."""
    model = folder.python("m", "cc_model_filenames: {}\nmetric_tags { }\nparameters: { }\n")
    assert model is not None
    config = folder.read("m")
    assert (config.parameters, config.metric_tags) == ({}, {})
    assert config.config_json["cc_model_filenames"] == {}
