"""Triton's rules, in its texts, with file and line."""

from __future__ import annotations

import logging
import re

import pytest

from jitney.core.errors import InvalidConfig
from jitney.tests.fakes.repository import Folder

RANGE = "dimension must be integer >= 1, or -1 to indicate a variable-size dimension"


@pytest.mark.parametrize(
    ("lines", "line", "text"),
    [
        ("max_batch_size: -1", 4, "'max_batch_size' must be non-negative value for m"),
        ("input [ { data_type: TYPE_FP32 dims: 1 } ]", 2, "model input must specify 'name' for m"),
        ('\ninput [ { name: "i" dims: 1 } ]', 5, "model input 'i' must specify 'data_type' for m"),
        ('\noutput [ { name: "o" data_type: TYPE_FP32 } ]', 5, "model output 'o' must specify 'dims' for m"),
        ('input [ { name: "i" data_type: TYPE_FP32 dims: 0 } ]', 4, f"model input 'i' {RANGE} for m"),
        ('input [ { name: "i" data_type: TYPE_FP32 dims: -2 } ]', 4, f"model input 'i' {RANGE} for m"),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 0 ] } } ]',
            4,
            "model input 'i' reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension for m",
        ),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 3 ] } } ]',
            4,
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ -1, -1 ] reshape { shape: [ -1, 1 ] } } ]',
            4,
            "model input 'i' has different number of variable-size dimensions for dims and reshape for m",
        ),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ -1, 2 ] } } ]',
            4,
            "model input 'i' has different size for dims and reshape for m",
        ),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ 1 ] reshape { } } ]',
            4,
            "model input 'i' cannot have empty reshape for non-batching model as scalar tensors are not supported for m",
        ),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ 1 ] format: FORMAT_NHWC } ]',
            4,
            "model input NHWC/NCHW require 3 dims for m",
        ),
        (
            'input [ { name: "i" data_type: TYPE_FP32 dims: [ 1 ] is_shape_tensor: true } ]',
            4,
            "shape tensors are only supported for TensorRT platform for m",
        ),
        (
            'output [ { name: "o" data_type: TYPE_FP32 dims: [ 1 ] is_non_linear_format_io: true } ]',
            4,
            "Non-linear IO format is only supported for the TensorRT platform for m",
        ),
        (
            'input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]',
            2,
            "model input 'x' is specified more than once for m",
        ),
        (
            "max_batch_size: 4\ndynamic_batching {\n preferred_batch_size: 0 }",
            6,
            "dynamic batching preferred size must be positive for m",
        ),
        (
            "max_batch_size: 4\ndynamic_batching {\n preferred_batch_size: 8 }",
            6,
            "dynamic batching preferred size must be <= max batch size for m",
        ),
        (
            "max_batch_size: 4\ndynamic_batching { priority_levels: 2\n default_priority_level: 3 }",
            6,
            "default priority level must be in range [1, 2] for m",
        ),
        (
            "max_batch_size: 4\ndynamic_batching { priority_levels: 2 }",
            5,
            "default priority level must be in range [1, 2] for m",
        ),
        (
            "max_batch_size: 4 dynamic_batching { priority_levels: 2 default_priority_level: 1\n"
            " priority_queue_policy { key: 3 value { } } }",
            5,
            "priority queue policy must have priority level in range [1, 2] for m",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preserve_ordering: true\n priority_levels: 2 default_priority_level: 1 }",
            5,
            "Only one priority level is allowed when 'preserve_ordering' is true for m",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preserve_ordering: true default_queue_policy {\n"
            " timeout_action: DELAY default_timeout_microseconds: 1 } }",
            5,
            "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        ),
        (
            "response_cache { enable: true } model_transaction_policy { decoupled: true }",
            4,
            "Response Cache does not currently support model m with 'decoupled' transaction policy. "
            "Please disable the response cache.",
        ),
        ("model_metrics { metric_control { } }", 4, "metric control must specify 'metric_identifier' for m"),
        (
            "model_metrics { metric_control { metric_identifier { } } }",
            4,
            "metric identifier must specify non-empty 'family' for m",
        ),
        (
            "model_metrics { metric_control { metric_identifier { family: 'f' } } }",
            4,
            "metric control must specify 'histogram_options' for m",
        ),
        (
            "model_metrics { metric_control { metric_identifier { family: 'f' } histogram_options { } } }",
            4,
            "histogram options must specify non-empty 'buckets' for m",
        ),
        (
            "max_batch_size: 4\nmodel_warmup [ { name: 'w' batch_size: 8 } ]",
            5,
            "model_warmup 'w' of m has batch_size 8, expected at most 4",
        ),
        (
            'model_warmup [ { name: "w" inputs { key: "z" value { } } } ]',
            4,
            "model_warmup 'w' of m names the input 'z', expected one of x",
        ),
        ('model_warmup [ { name: "w" } ]', 4, "model_warmup 'w' of m has no data for the input 'x'"),
        (
            'model_warmup [ { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 } } } ]',
            4,
            "model_warmup 'w' of m, input 'x': must specify 'zero_data', 'random_data' or 'input_data_file'",
        ),
        (
            'model_warmup [ { name: "w" inputs { key: "x" value { dims: 2 zero_data: true } } } ]',
            4,
            "model_warmup 'w' of m, input 'x': must specify 'data_type'",
        ),
        (
            'model_warmup [ { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: -1 zero_data: true } } } ]',
            4,
            "model_warmup 'w' of m, input 'x': dims must be integers >= 1",
        ),
    ],
)
def test_a_broken_rule_is_told_as_triton_does(folder: Folder, lines: str, line: int, text: str) -> None:
    path = folder.python("m", lines) / "config.pbtxt"
    with pytest.raises(InvalidConfig) as caught:
        folder.read("m", auto_complete=False)
    assert str(caught.value) == f"{path}:{line}: {text}"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (
            'platform: "onnxruntime_onnx"\nbackend: "pytorch"',
            ":1: unexpected 'platform' and 'backend' pair, got:onnxruntime_onnx, pytorch",
        ),
        ('platform: "tensorrt_plan"', ":1: unexpected platform type 'tensorrt_plan' for m"),
        ('backend: "tensorflow"', ":1: backend 'tensorflow' of m is not offered, expected pytorch, onnxruntime"),
        (
            "max_batch_size: 4",
            ": must specify 'platform' or 'backend' for 'm': there is no model.onnx, model.pt, model.py, model.pt2 in ",
        ),
        (
            'platform: "ensemble"\nbackend: "python"',
            ":2: Ensemble model 'm' must have platform type 'ensemble' and empty backend",
        ),
        ('platform: "ensemble"', ":1: ensemble scheduling must be set for ensemble m whose platform is ensemble"),
        ('backend: "pytorch"', ": model configuration must contain at least one input, none were specified for m"),
    ],
)
def test_platforms_and_backends_that_do_not_fit(folder: Folder, lines: str, text: str) -> None:
    folder.model("m", lines, {"1/.keep": ""})
    with pytest.raises(InvalidConfig, match=re.escape(text)):
        folder.read("m", auto_complete=False)


@pytest.mark.parametrize(
    "lines",
    [
        'input [ { name: "i" data_type: TYPE_FP32 dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] } } ]',
        'max_batch_size: 1 input [ { name: "i" data_type: TYPE_FP32 dims: [ 1 ] reshape { } } ]',
        'input [ { name: "i" data_type: TYPE_UINT8 dims: [ 4, 4, 3 ] format: FORMAT_NHWC } ]',
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 8 ] }",
        "max_batch_size: 8 dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY } }",
        'model_warmup [ { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } } ]',
    ],
)
def test_what_keeps_the_rules_is_read(folder: Folder, lines: str) -> None:
    folder.python("m", lines)
    assert folder.read("m").name == "m"


def test_priorities_without_levels_are_ignored_aloud(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.python("m", "dynamic_batching { default_priority_level: 2 }")
    with caplog.at_level(logging.WARNING):
        folder.read("m")
    assert "'default_priority_level' has no effect without 'priority_levels' for m" in caplog.text


CONTROL = "sequence_batching { control_input [ { name: 'c' control [ { kind: CONTROL_SEQUENCE_%s } ] } ] }"
VALUES = "'int32_false_true', 'fp32_false_true' or 'bool_false_true'"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (CONTROL % "START", f"sequence batching must specify either {VALUES} for CONTROL_SEQUENCE_START for m"),
        (
            CONTROL % "END int32_false_true: [ 0, 1 ] bool_false_true: [ false, true ]",
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' "
            "for CONTROL_SEQUENCE_END for m",
        ),
        (
            CONTROL % "READY fp32_false_true: [ 0, 1, 2 ]",
            "sequence batching control 'fp32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_READY for m",
        ),
        (
            CONTROL % "CORRID data_type: TYPE_UINT64 int32_false_true: [ 0, 1 ]",
            f"sequence batching must not specify either {VALUES} for CONTROL_SEQUENCE_CORRID for m",
        ),
        (
            CONTROL % "CORRID data_type: TYPE_FP32",
            "unexpected data type for control CONTROL_SEQUENCE_CORRID for m. "
            "Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING",
        ),
        (
            "sequence_batching { control_input [ { name: 'c' }, { name: 'c' } ] }",
            "sequence batching control tensor 'c' is specified for multiple control kinds for m",
        ),
        ("sequence_batching { control_input [ { } ] }", "sequence batching control tensor must have a name for m"),
        (
            "sequence_batching { control_input [ { name: 'a' control { kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] } }, "
            "{ name: 'b' control { kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] } } ] }",
            "sequence batching specifies multiple CONTROL_SEQUENCE_END tensors for m",
        ),
        (
            "max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: 5 } }",
            "sequence batching preferred batch size must be <= max batch size for m",
        ),
        (
            "max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: 0 } }",
            "sequence batching preferred batch size must be positive for m",
        ),
        (
            "sequence_batching { direct { minimum_slot_utilization: 1.5 } }",
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for m",
        ),
        (
            "response_cache { enable: true } sequence_batching { }",
            "Response Cache does not currently support model m with sequence batching scheduler. "
            "Please disable the response cache.",
        ),
        ("version_policy { latest { } }", "at least one version must be available under the version policy of model 'm'"),
    ],
)
def test_rules_of_sequence_batching_and_versions(folder: Folder, lines: str, text: str) -> None:
    folder.python("m", lines)
    with pytest.raises(InvalidConfig, match=re.escape(text)):
        folder.read("m", auto_complete=False)


def test_a_sequence_model_keeps_its_scheduling_as_data(folder: Folder) -> None:
    folder.python("m", "max_batch_size: 4 sequence_batching { oldest { max_candidate_sequences: 3 } }")
    sequence = folder.read("m").sequence
    assert sequence is not None
    assert sequence["max_sequence_idle_microseconds"] == 1_000_000
    assert sequence["oldest"]["preferred_batch_size"] == [4]
