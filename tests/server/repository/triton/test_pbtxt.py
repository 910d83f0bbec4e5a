"""Text and JSON of a configuration: what is not understood is refused with its place."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.pbtxt import Source, parse_config, parse_config_json, schema, to_json


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('name: "m"\n# a comment\nnonsense: 3', 3, 'no field named "nonsense"'),
        ('name: "m"\ninput [ { nam: "x" } ]', 2, 'no field named "nam"'),
        ('name: "m"\nname: "n"', 2, 'multiple "name" fields'),
        ('name: "m', 1, "missing ending quote"),
        ('name: "m"\nmax_batch_size: "a"', 2, "integer"),
        ("\n\nmax_batch_size: 99999999999", 3, "out of range"),
        ("\ninput [ { data_type: TYPE_FLOAT } ]", 2, "no value named TYPE_FLOAT"),
        ("dynamic_batching { }\nsequence_batching { }", 2, "scheduling_choice"),
        ("\ninstance_group [ { count: 1 ", 2, ""),
        ('\nname: "\\377"', 2, ""),
    ],
)
def test_bad_text_names_file_line_and_field(text: str, line: int, reason: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(text, "m/config.pbtxt")
    assert str(caught.value).startswith(f"m/config.pbtxt:{line}: ")
    assert reason.lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("max_batchsize: 8", "Did you mean max_batch_size?"),
        ("dynamic_batching { max_queue_delay_ms: 5 }", "Did you mean max_queue_delay_microseconds?"),
        ("version_policy { lates { } }", "Did you mean latest?"),
        ("input { data_type: FP32 }", "Did you mean TYPE_FP32?"),
        ("instance_group { kind: gpu }", "Did you mean KIND_GPU?"),
        ("instance_group { kind: KIND_CUDA }", "Expected one of KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL."),
        ("nonsense: 1", 'has no field named "nonsense".'),
    ],
)
def test_bad_text_is_told_with_what_the_schema_has_instead(text: str, advice: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(text, "config.pbtxt")
    assert str(caught.value).endswith(advice)


def test_a_sign_may_stand_apart_from_its_number() -> None:
    """As protobuf's reader in C++ has it, which is Triton's. Strings and comments stay as they are, lines too."""
    text = """name: "a - 1"  # - 2
        output [ { dims: [ - 1, -
            3, 2 ] } ]
        parameters { key: '- 4' value { string_value: "\\"- 5" } }"""
    config = parse_config(text, "m/config.pbtxt")
    assert (config.name, list(config.output[0].dims)) == ("a - 1", [-1, -3, 2])
    assert {key: value.string_value for key, value in config.parameters.items()} == {"- 4": '"- 5'}
    with pytest.raises(InvalidConfig, match=r"^m/config\.pbtxt:5: "):
        parse_config(f"{text}\nnonsense: - 1", "m/config.pbtxt")


def test_text_that_nests_without_end_is_refused_briefly() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_config("{" * 100_000, "c")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ('{"nonsense": 1}', "unknown field 'nonsense'"),
        ('{"input": [{"name": "x"}, {"nam": "y"}]}', r"unknown field 'input\[1\].nam'"),
        ('{"parameters": {"k": {"value": "v"}}}', r"unknown field 'parameters\['k'\].value'"),
        ('{"input": {"name": "x"}}', "'input' must be an array, got dict"),
        ('{"input": ["x"]}', r"'input\[0\]' must be an object, got str"),
        ('{"parameters": []}', "'parameters' must be an object, got list"),
        ('{"input": [{"data_type": "TYPE_FLOAT"}]}', "'TYPE_FLOAT', expected one of TYPE_INVALID, TYPE_BOOL"),
        ('{"max_batch_size": "many"}', "max_batch_size"),
        ('{"max_batch_size": 1.5}', "max_batch_size"),
        ('{"max_batch_size": 1e999}', "max_batch_size"),
        ('{"max_batch_size": 4, "max_batch_size": 8}', "'max_batch_size' is given twice"),
        ('{"max_batch_size": 4, "maxBatchSize": 8}', "'maxBatchSize' is given twice"),
        ('{"dynamic_batching": {}, "sequence_batching": {}}', "scheduling_choice"),
        ('{"name": NaN}', "name"),
        ('{"name": "\\ud800"}', "surrogate"),
        ('["name"]', "'ModelConfig' must be an object"),
        ('{"name": ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_json_names_the_field(document: str, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^inline: .*{reason}"):
        parse_config_json(document, "inline")


def test_enums_of_json_are_read_in_any_case() -> None:
    config = parse_config_json('{"input": [{"data_type": "type_fp16"}], "instance_group": [{"kind": "Kind_CPU"}]}', "inline")
    assert config.input[0].data_type == schema.TYPE_FP16
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU


def test_null_means_absent() -> None:
    assert parse_config_json('{"name": null, "dynamic_batching": null}', "inline") == schema.ModelConfig()


def test_json_shows_every_primitive_and_only_messages_that_are_set() -> None:
    document = to_json(schema.ModelConfig())
    assert document["max_batch_size"] == 0 and document["input"] == [] and document["parameters"] == {}
    assert not {"dynamic_batching", "optimization", "version_policy", "response_cache"} & set(document)
    group = to_json(parse_config("instance_group { }", "c"))["instance_group"][0]
    assert group["kind"] == "KIND_AUTO" and group["gpus"] == [] and "rate_limiter" not in group


def test_json_has_numbers_for_wide_integers_strings_for_keys_and_short_floats() -> None:
    text = """
    version_policy { specific { versions: [ 9007199254740993 ] } }
    dynamic_batching { priority_queue_policy { key: 2 value { default_timeout_microseconds: 18446744073709551615 } } }
    """
    document = to_json(parse_config(text, "c"))
    assert document["version_policy"]["specific"]["versions"] == [9007199254740993]
    assert document["dynamic_batching"]["priority_queue_policy"]["2"]["default_timeout_microseconds"] == 2**64 - 1
    direct = to_json(parse_config("sequence_batching { direct { minimum_slot_utilization: 0.1 } }", "c"))
    assert json.dumps(direct["sequence_batching"]["direct"]["minimum_slot_utilization"]) == "0.1"


def test_only_the_chosen_member_of_a_oneof_is_shown() -> None:
    text = 'model_warmup { inputs { key: "x" value { dims: 1 random_data: true } } }'
    assert to_json(parse_config(text, "c"))["model_warmup"][0]["inputs"]["x"] == {
        "data_type": "TYPE_INVALID",
        "dims": [1],
        "random_data": True,
    }


TEXT = """# dynamic_batching is turned on below
name: "input"
input [ { name: "a" dims: 1 },
        { name: "b"
          dims: 0 } ]
dynamic_batching { # priority_levels: 9
  priority_levels: 2
}
"""


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("name",), "c:2"),
        (("input",), "c:3"),
        (("input", '"b"'), "c:4"),
        (("input", '"b"', "dims"), "c:5"),
        (("dynamic_batching",), "c:6"),
        (("dynamic_batching", "priority_levels"), "c:7"),
        (("dynamic_batching", "preferred_batch_size"), "c:6"),
        (("absent",), "c"),
    ],
)
def test_a_field_is_found_in_its_text(words: tuple[str, ...], place: str) -> None:
    assert Source("c", TEXT).at(*words) == place


def test_a_field_is_found_in_json_of_several_lines() -> None:
    text = json.dumps({"name": "m", "max_batch_size": -1}, indent=1)
    assert Source("inline", text).at("max_batch_size") == "inline:3"
    assert Source("inline", json.dumps({"max_batch_size": -1})).at("max_batch_size") == "inline"


def test_the_schema_is_loaded_without_grpc_and_is_the_clients_own() -> None:
    code = """
import sys
from jitney.server.repository.triton.pbtxt import schema
assert not {"grpc", "tritonclient", "torch", "onnxruntime"} & set(sys.modules), "imported too much"
import tritonclient.grpc as client
assert client.service_pb2.ModelConfigResponse().config.__class__ is schema.ModelConfig
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "document", [r'{"\ud800": 1}', r'{"name": "\udfff"}', r'{"parameters": {"\ud800": {"string_value": "a"}}}']
)
def test_half_of_a_surrogate_pair_in_json_is_refused(document: str) -> None:
    """Valid JSON, and no text: protobuf fails on it in ways of its own."""
    with pytest.raises(InvalidConfig, match=r"not valid JSON: .*surrogates not allowed"):
        parse_config_json(document, "the config")
