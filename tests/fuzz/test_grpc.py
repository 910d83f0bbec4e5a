"""gRPC's messages: what our reading takes apart is what protobuf reads, and nothing but a refusal comes of the rest."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import JitneyError
from jitney.core.tensor import DATATYPES
from jitney.server.grpc import schema, wire
from jitney.server.grpc.triton.request import Reader
from jitney.server.http.kserve.errors import describe
from jitney.server.http.kserve.shm import ClientRegions

from .mutations import mutated

KIND = schema.triton().message("inference.ModelInferRequest")
RAW = 7


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A request, nearly right, as it travels."""
    message = KIND(model_name=draw(st.sampled_from(("m", ""))), id=draw(st.text(max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        entry = message.inputs.add(
            name=draw(st.sampled_from(("x", "y", ""))),
            datatype=draw(st.sampled_from((*sorted(DATATYPES), "nonsense"))),
            shape=draw(st.lists(st.sampled_from((0, 1, 2, 3, -1, 2**31, 2**62)), max_size=3)),
        )
        field = draw(st.sampled_from(("", "", "fp32_contents", "int_contents", "bytes_contents", "bool_contents")))
        values: dict[str, Any] = {"bytes_contents": st.binary(max_size=4), "bool_contents": st.booleans()}
        if field:
            getattr(entry.contents, field).extend(draw(st.lists(values.get(field, st.integers(-300, 300)), max_size=4)))
        for name in draw(st.lists(st.sampled_from(("shared_memory_region", "shared_memory_offset", "own")), max_size=2)):
            kind = draw(st.sampled_from(("bool_param", "int64_param", "string_param")))
            value = {"bool_param": True, "int64_param": draw(st.integers(-1, 9)), "string_param": "r"}[kind]
            setattr(entry.parameters[name], kind, value)
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=20), max_size=3)))
    found: bytes = message.SerializeToString()
    return found


@given(mutated(messages()))
def test_a_message_is_read_or_refused(data: bytes) -> None:
    try:
        Reader(data).read(ClientRegions())
    except JitneyError as error:
        assert 400 <= describe(error)[0] < 500 and str(error)


@given(mutated(messages()))
def test_what_is_taken_apart_is_what_protobuf_reads(data: bytes) -> None:
    split = wire.split(data, RAW)
    try:
        plain = KIND.FromString(data)
    except DecodeError:
        return
    if split is None:
        return  # the whole is left to protobuf then
    head, found = split
    rest = KIND.FromString(head)
    assert [bytes(part) for part in found] == list(plain.raw_input_contents)
    del plain.raw_input_contents[:]
    assert rest == plain or rest.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)
