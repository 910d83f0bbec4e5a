"""Message classes from our own `.proto` texts, read when they are first needed.

No code is generated, so nothing has to fit the version of protobuf that is installed; and they live in a pool of their own, so a
program that imports a client's generated messages beside them is not disturbed. What is read is the part of proto3 that the
texts use: messages in messages, enums in them, maps, oneofs, optional and repeated fields, services.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory

Message = Any
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: dict[str, Any] = {name.removeprefix("TYPE_").lower(): number for name, number in _Field.Type.items()}
_TOKEN = re.compile(r"//[^\n]*|\s+|(\"[^\"]*\"|[\w.]+|[^\s\w])")
_KNOWN = {"google/protobuf/empty.proto": empty_pb2, "google/protobuf/any.proto": any_pb2}


class _Reader:
    """Reads one text into a file descriptor; ValueError with the word that is not understood."""

    def __init__(self, text: str, name: str) -> None:
        self._words: Iterator[str] = (match[1] for match in _TOKEN.finditer(text) if match[1])
        self.file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")

    def read(self) -> descriptor_pb2.FileDescriptorProto:
        for word in self._words:
            match word:
                case "syntax":
                    self._until(";")
                case "package":
                    self.file.package = self._until(";")[0]
                case "import":
                    self.file.dependency.append(self._until(";")[0].strip('"'))
                case "message":
                    self._message(self.file.message_type.add())
                case "service":
                    self._service(self.file.service.add())
                case _:
                    raise ValueError(f"{self.file.name}: '{word}' is not expected here")
        return self.file

    def _until(self, end: str) -> list[str]:
        found: list[str] = []
        for word in self._words:
            if word == end:
                return found
            found.append(word)
        raise ValueError(f"{self.file.name}: '{end}' is missing")

    def _message(self, message: descriptor_pb2.DescriptorProto) -> None:
        message.name = self._until("{")[0]
        oneof: int | None = None
        optional = []
        while (word := next(self._words)) != "}" or oneof is not None:
            if word == "}":
                oneof = None
            elif word == "message":
                self._message(message.nested_type.add())
            elif word == "enum":
                self._enum(message.enum_type.add())
            elif word == "oneof":
                oneof = len(message.oneof_decl)
                message.oneof_decl.add(name=self._until("{")[0])
            else:
                field = self._field(message, [word, *self._until(";")])
                if oneof is not None:
                    field.oneof_index = oneof
                elif field.proto3_optional:
                    optional.append(field)
        for field in optional:  # after the real ones, as protobuf demands
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")

    def _enum(self, enum: descriptor_pb2.EnumDescriptorProto) -> None:
        enum.name = self._until("{")[0]
        while (name := next(self._words)) != "}":
            enum.value.add(name=name, number=int(self._until(";")[-1]))

    def _field(self, message: descriptor_pb2.DescriptorProto, words: list[str]) -> _Field:
        *kind, name, _, number = words
        field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
        if kind[0] == "map":
            entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
            entry.options.map_entry = True
            self._type(entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL), kind[2])
            self._type(entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL), kind[4])
            kind = ["repeated", entry.name]
        if kind[0] == "repeated":
            field.label = _Field.LABEL_REPEATED
        field.proto3_optional = kind[0] == "optional"
        self._type(field, kind[-1])
        return field

    def _type(self, field: _Field, name: str) -> None:
        if name in _SCALARS:
            field.type = _SCALARS[name]
        else:
            field.type_name = name

    def _service(self, service: descriptor_pb2.ServiceDescriptorProto) -> None:
        service.name = self._until("{")[0]
        while next(self._words) != "}":
            _, method, *rest = ["rpc", *self._until(";")]
            words = [word for word in rest if word not in ("(", ")")]
            at = words.index("returns")
            service.method.add(
                name=method,
                input_type=words[at - 1],
                output_type=words[-1],
                client_streaming="stream" in words[:at],
                server_streaming="stream" in words[at:],
            )


@dataclass(frozen=True)
class Method:
    """One call: its name on the wire, the classes of its messages, and which sides stream."""

    path: str
    request: Message
    response: Message
    client_streams: bool
    server_streams: bool


class Schema:
    """The messages and calls of some texts; `others` are serialized files that these refer to."""

    def __init__(self, folder: Path, names: tuple[str, ...], others: tuple[bytes, ...] = ()) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for known in _KNOWN.values():
            self._pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        for other in others:
            self._pool.AddSerializedFile(other)
        self._classes: dict[str, Message] = {}
        self.methods: dict[str, dict[str, Method]] = {}
        for name in names:
            file = _Reader((folder / name).read_text(), name).read()
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
    """Triton's service. `ModelConfig` comes with tritonclient, as where config.pbtxt is read."""
    from ..repository.triton.pbtxt import schema as config

    return Schema(Path(__file__).parent / "triton", ("service.proto", "health.proto"), (config.DESCRIPTOR.serialized_pb,))


@cache
def torchserve() -> Schema:
    """TorchServe's services."""
    names = ("status.proto", "inference.proto", "management.proto", "open_inference.proto")
    return Schema(Path(__file__).parent / "torchserve", names)
