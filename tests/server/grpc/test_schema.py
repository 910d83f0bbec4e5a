"""The messages that our own texts describe, against those that Triton's client was generated from."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import service_pb2

from jitney.server.grpc import schema
from jitney.tools.dev.build_protos import describe


def fields(message: Any) -> dict[str, tuple[Any, ...]]:
    """Every field of a message as it is on the wire, those of messages in it too."""
    found = {}
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else None
        oneof = field.containing_oneof.name if field.containing_oneof else None
        found[field.name] = (field.number, field.type, field.is_repeated, kind, oneof)
    for nested in message.nested_types:
        found |= {f"{nested.name}.{name}": field for name, field in fields(nested).items()}
    return found


def test_every_message_of_triton_is_the_clients() -> None:
    ours = schema.triton()
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    assert len(theirs) > 40
    for name, message in theirs.items():
        assert fields(ours.message(f"inference.{name}").DESCRIPTOR) == fields(message), name


def test_every_call_of_triton_is_the_clients() -> None:
    ours = schema.triton().methods["inference.GRPCInferenceService"]
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert {
        name: (m.request.DESCRIPTOR.full_name, m.response.DESCRIPTOR.full_name, m.client_streams, m.server_streams)
        for name, m in ours.items()
    } == {m.name: (m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming) for m in theirs}


def test_torchserves_messages_have_the_fields_that_it_documents() -> None:
    request = schema.torchserve().message("org.pytorch.serve.grpc.inference.PredictionsRequest")
    made = request(model_name="m", input={"data": b"x"}, sequence_id="")
    assert made.HasField("sequence_id")
    assert not request(model_name="m").HasField("sequence_id")
    assert made.SerializeToString() == b"\x0a\x01m\x1a\x09\x0a\x04data\x12\x01x\x22\x00"
    status = schema.torchserve().message("google.rpc.Status")(code=13)
    reply = schema.torchserve().message("org.pytorch.serve.grpc.inference.PredictionResponse")(status=status)
    assert reply.HasField("status")


@pytest.mark.parametrize("name", schema.SETS)
def test_the_set_says_what_the_texts_say(name: str) -> None:
    """Fails where a text was changed without `python -m jitney.tools.dev.build_protos`."""
    made, kept = (FileDescriptorSet.FromString(data) for data in (describe(name), schema.SETS[name].read_bytes()))
    assert made == kept
