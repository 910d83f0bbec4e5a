"""Large fields taken out of a message and put behind it, against protobuf itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.server.grpc import schema, wire

KIND = schema.triton().message("inference.ModelInferRequest")
RAW = 7


@given(
    st.lists(st.binary(max_size=300)), st.text(max_size=20), st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False)),
)  # fmt: skip
def test_a_message_splits_into_the_field_and_the_rest(raw: Any, name: Any, shape: Any, numbers: Any) -> None:
    message = KIND(model_name=name, raw_input_contents=raw)
    message.inputs.add(name="x", shape=shape)
    for key, value in numbers.items():
        message.parameters[key].double_param = value
    split = wire.split(message.SerializeToString(), RAW)
    assert split is not None
    head, found = split
    assert [bytes(view) for view in found] == raw
    message.ClearField("raw_input_contents")
    assert KIND.FromString(head) == message
    message.raw_input_contents.extend(raw)
    assert KIND.FromString(wire.join(head, RAW, found)) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_split_or_refused(data: Any) -> None:
    split = wire.split(data, RAW)
    if split is not None:
        assert len(split[0]) <= len(data)


@pytest.mark.parametrize("data", [b"\x3a", b"\x3a\x05abcd", b"\x0b", b"\xff" * 12, b"\x09abc"[:2] + b"\x80"])
def test_what_is_cut_off_is_no_message(data: Any) -> None:
    assert wire.split(data, RAW) is None


def test_a_part_is_not_copied_when_it_is_taken_out() -> None:
    data = KIND(raw_input_contents=[b"x" * 100_000]).SerializeToString()
    split = wire.split(data, RAW)
    assert split is not None
    assert split[1][0].obj is data
