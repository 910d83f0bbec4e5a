"""Recorded calls over gRPC, sent again: one message, several, or a stream that waits for replies or is cancelled."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.grpc import service_pb2

Record = dict[str, Any]
INFERENCE = "inference.GRPCInferenceService"
UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
#: Methods with more than one message: whether the client streams. All these servers do.
STREAMS = {"ModelStreamInfer": True, "Watch": False, "ServerReflectionInfo": True}
Field = descriptor_pb2.FieldDescriptorProto


@dataclass
class Outcome:
    """The replies as protobuf's JSON, and how the call ended."""

    replies: list[Record] = field(default_factory=list)
    code: str = "OK"
    details: str = ""


def _schema(name: str, package: str, messages: dict[str, list[tuple[int, str, str, bool]]]) -> Any:
    """A file of messages whose fields are (number, name, type or "string", repeated)."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    for message, fields in messages.items():
        added = file.message_type.add(name=message)
        for number, label, kind, repeated in fields:
            one = added.field.add(name=label, number=number)
            one.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if kind == "string":
                one.type = Field.TYPE_STRING
            else:
                one.type, one.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
    return file


def _other_services() -> dict[str, tuple[Any, Any]]:
    """Request and response class of the calls that tritonclient has no messages for: health and reflection."""
    pool = descriptor_pool.DescriptorPool()
    health = _schema(
        "h.proto",
        "grpc.health.v1",
        {"HealthCheckRequest": [(1, "service", "string", False)], "HealthCheckResponse": []},
    )
    response = health.message_type[1]
    values = response.enum_type.add(name="ServingStatus").value
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        values.add(name=name, number=number)
    status = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    response.field.add(name="status", number=1, label=Field.LABEL_OPTIONAL, type=Field.TYPE_ENUM, type_name=status)
    pool.Add(health)
    names = {f"grpc.health.v1.Health/{method}": "grpc.health.v1.HealthCheck" for method in ("Check", "Watch")}
    for version in ("v1", "v1alpha"):
        package = f"grpc.reflection.{version}"
        messages = {
            "ServerReflectionRequest": [(1, "host", "string", False), (7, "list_services", "string", False)],
            "ServiceResponse": [(1, "name", "string", False)],
            "ListServiceResponse": [(1, "service", "ServiceResponse", True)],
            "ServerReflectionResponse": [
                (1, "valid_host", "string", False),
                (6, "list_services_response", "ListServiceResponse", False),
            ],
        }
        pool.Add(_schema(f"r{version}.proto", package, messages))
        names[f"{package}.ServerReflection/ServerReflectionInfo"] = f"{package}.ServerReflection"

    def found(name: str) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

    return {call: (found(f"{start}Request"), found(f"{start}Response")) for call, start in names.items()}


OTHERS = _other_services()


def classes(service: str, method: str) -> tuple[Any, Any]:
    """Request and response class; empty messages for a method that there is not."""
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    if f"{service}/{method}" in OTHERS:
        return OTHERS[f"{service}/{method}"]
    if service == INFERENCE and method in methods:
        known = methods[method]
        return getattr(service_pb2, known.input_type.name), getattr(service_pb2, known.output_type.name)
    return service_pb2.ServerLiveRequest, service_pb2.ServerLiveResponse


def expand(value: Any) -> Any:
    """Writes out {"b64": …, "times": n}."""
    if isinstance(value, dict):
        if set(value) == {"b64", "times"}:
            return base64.b64encode(base64.b64decode(value["b64"]) * value["times"]).decode()
        return {name: expand(item) for name, item in value.items()}
    return [expand(item) for item in value] if isinstance(value, list) else value


def as_document(message: Any) -> Record:
    found: Record = MessageToDict(message, preserving_proto_field_name=True)
    return found


class GrpcServer:
    """A server at host and port. Close it at the end."""

    def __init__(self, address: str) -> None:
        self._channel: Any = grpc.insecure_channel(address, options=UNBOUNDED)

    def close(self) -> None:
        self._channel.close()

    def call(self, record: Record) -> Outcome:
        service, method = record.get("service", INFERENCE), record["method"]
        request_class, response_class = classes(service, method)
        sends = STREAMS.get(method)
        kind = "unary_unary" if sends is None else "stream_stream" if sends else "unary_stream"
        call = getattr(self._channel, kind)(
            f"/{service}/{method}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        messages = [ParseDict(expand(message), request_class()) for message in record["request"]]
        options = {
            "timeout": record.get("timeout_s", 20),
            "compression": {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}.get(
                record.get("compression", "")
            ),
            "metadata": [tuple(pair) for pair in record.get("metadata", ())],
        }
        outcome, replies = Outcome(), list[Any]()
        try:
            if sends is not None:
                _stream(call, record, messages, options, replies)
            elif "cancel_after_s" in record:
                future = call.future(messages[0], **options)
                time.sleep(record["cancel_after_s"])
                future.cancel()
                replies.append(future.result())
            else:
                replies.append(call(messages[0], **options))
        except grpc.RpcError as error:
            told: Any = error
            outcome.code, outcome.details = told.code().name, told.details() or ""
        except grpc.FutureCancelledError:
            outcome.code = "CANCELLED"
        outcome.replies = [as_document(reply) for reply in replies]
        return outcome


def _stream(call: Any, record: Record, messages: list[Any], options: dict[str, Any], replies: list[Any]) -> None:
    """With `pace` "reply" each message follows the reply to the one before; a stream to be cancelled stays open till then."""
    last = record.get("cancel_after_replies", 0)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + options["timeout"]
        while len(replies) < count and time.monotonic() < deadline:
            time.sleep(0.01)

    def feed() -> Iterator[Any]:
        for index, message in enumerate(messages):
            if record.get("pace") == "reply":
                wait_for(index)
            yield message
        wait_for(last)

    answered = call(feed() if STREAMS[record["method"]] else messages[0], **options)
    for reply in answered:
        replies.append(reply)
        if len(replies) == last:
            answered.cancel()
