"""`config.pbtxt` and its JSON: read or refused with the place, and the same whichever of the two it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.pbtxt import parse_config, parse_config_json, to_json

from .mutations import mutated

FIELDS = st.sampled_from(
    (
        b'name: "m"',
        b'backend: "python"',
        b"max_batch_size: 8",
        b'platform: "onnxruntime_onnx"',
        b"dynamic_batching { }",
        b'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]',
        b"dynamic_batching { preferred_batch_size: [ 4, 8 ] }",
        b'output { name: "y" data_type: TYPE_STRING dims: 1 label_filename: "a.txt" }',
        b"version_policy: { latest { num_versions: 2 }}",
        b"instance_group [ { kind: KIND_CPU count: 2 } ]",
        b'parameters { key: "a" value { string_value: "b" } }',
        b"# a comment",
        b"sequence_batching { max_sequence_idle_microseconds: 5 }",
        b"model_warmup [ { batch_size: 1 } ]",
        b"response_cache { enable: true }",
    )
)
TEXTS = st.builds(b"\n".join, st.lists(FIELDS, max_size=6))


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence:DeprecationWarning")  # of Python's codec, which protobuf uses
@given(mutated(TEXTS))
def test_a_text_is_read_or_refused_with_its_place(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        config = parse_config(text, "m/config.pbtxt")
    except InvalidConfig as error:
        assert str(error).startswith("m/config.pbtxt")
        return
    document = to_json(config)
    again = parse_config_json(json.dumps(document), "json")
    assert again == config or to_json(again) == document


@given(
    mutated(
        TEXTS.map(lambda text: json.dumps(to_json(parse_config(text.decode(), "p"))).encode() if _valid(text) else b"{}")
    )
)
def test_a_document_is_read_or_refused_with_its_place(data: bytes) -> None:
    try:
        parse_config_json(data.decode("utf-8", "surrogateescape"), "the config")
    except InvalidConfig as error:
        assert str(error).startswith("the config")


def _valid(text: bytes) -> bool:
    try:
        parse_config(text.decode(), "p")
    except InvalidConfig:
        return False
    return True
