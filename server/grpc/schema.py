"""Message classes of our own `.proto` texts, made when they are first needed.

What is read are sets of file descriptors, which `tools.dev.build_protos` makes of the texts: no generated code has to fit the
version of protobuf that is installed. The classes live in a pool of their own, so a program that imports a client's generated
messages beside them is not disturbed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory

Message = Any
_HERE = Path(__file__).parent
#: The set of each original's messages.
SETS = {name: _HERE / name / "messages.binpb" for name in ("triton", "torchserve")}


@dataclass(frozen=True)
class Method:
    """One call: its name on the wire, the classes of its messages, and which sides stream."""

    path: str
    request: Message
    response: Message
    client_streams: bool
    server_streams: bool


class Schema:
    """The messages and calls of a set; `others` are serialized files of other packages that it refers to."""

    def __init__(self, descriptors: bytes, *others: bytes) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for known in (any_pb2.DESCRIPTOR.serialized_pb, empty_pb2.DESCRIPTOR.serialized_pb, *others):
            self._pool.AddSerializedFile(known)
        self._classes: dict[str, Message] = {}
        self.methods: dict[str, dict[str, Method]] = {}
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            self._pool.Add(file)
            for service in file.service:
                self._add(f"{file.package}.{service.name}")

    def message(self, name: str) -> Message:
        """The class of a message, by its full name."""
        found = self._classes.get(name)
        if found is None:
            found = self._classes[name] = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))
        return found

    def _add(self, service: str) -> None:
        found = self._pool.FindServiceByName(service)
        self.methods[service] = {
            method.name: Method(
                f"/{service}/{method.name}",
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
                method.client_streaming,
                method.server_streaming,
            )
            for method in found.methods
        }


@cache
def triton() -> Schema:
    """Triton's service, and the standard health service. `ModelConfig` comes with tritonclient, as where config.pbtxt is read."""
    from ..repository.triton.pbtxt import schema as config

    return Schema(SETS["triton"].read_bytes(), config.DESCRIPTOR.serialized_pb)


@cache
def torchserve() -> Schema:
    """TorchServe's services."""
    return Schema(SETS["torchserve"].read_bytes())
