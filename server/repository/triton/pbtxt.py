"""`config.pbtxt`: text or JSON -> Triton's `inference.ModelConfig` message -> the JSON that `GET …/config` prints.

The schema is the official one, `tritonclient.grpc.model_config_pb2`. Its package imports grpc, which nothing here needs, so the
one generated module is loaded by itself, under its own name.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from ....core.errors import InvalidConfig

Message = Any
"""A protobuf message. The generated module has no types that mypy could see."""

MAX_CONFIG_BYTES = 16 << 20
_SCHEMA = "tritonclient.grpc.model_config_pb2"
_COMMENT_OR_STRING = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|#[^\n]*")
_OR_SIGN_APART = re.compile(rf"{_COMMENT_OR_STRING.pattern}|-(\s+)(?=[\w.])")


def _load_schema() -> Any:
    if _SCHEMA in sys.modules:
        return sys.modules[_SCHEMA]
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        raise ImportError("tritonclient is not installed; it brings the schema of config.pbtxt")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location(_SCHEMA, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load the schema of config.pbtxt from {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules.setdefault(_SCHEMA, module)


schema = _load_schema()


class Source:
    """Where a configuration came from, to say which line of it is wrong.

    `at("dynamic_batching", "priority_levels")` is `path:line` of the first `priority_levels` after the first
    `dynamic_batching`, comments and strings aside; a word in quotes, `at("input", '"x"')`, is looked up as a string. It stops
    at the last word it finds, and is `path` alone where it finds none or where the text has a single line (inline JSON).
    """

    def __init__(self, path: str, text: str = "") -> None:
        self.path, self.text = path, text
        self._bare = _COMMENT_OR_STRING.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        self._is_json = text.lstrip().startswith("{")

    def at(self, *words: str) -> str:
        found, end = -1, 0
        for word in words:
            quoted = word.startswith('"') or self._is_json
            name = re.escape(word.strip('"'))
            match = re.compile(f"[\"']{name}[\"']" if quoted else rf"\b{name}\b").search(
                self.text if quoted else self._bare, end
            )
            if match is None:
                break
            found, end = match.start(), match.end()
        if found < 0 or "\n" not in self.text.strip():
            return self.path if found < 0 or self._is_json else f"{self.path}:1"
        return f"{self.path}:{self.text.count(chr(10), 0, found) + 1}"

    def error(self, message: str, *words: str) -> InvalidConfig:
        return InvalidConfig(f"{self.at(*words)}: {message}")


def read_config(path: Path) -> str:
    """The text of a `config.pbtxt`; InvalidConfig where it is not UTF-8, which only comments need not be. OSError.

    Some editors begin it with a byte order mark, which is left out.
    """
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        text = _COMMENT_OR_STRING.sub(lambda match: "#" if match[0].startswith("#") else match[0], text)
        if odd := re.search("[\ud800-\udfff]", text):
            line = text.count("\n", 0, odd.start()) + 1
            raise InvalidConfig(f"{path}:{line}: byte 0x{ord(odd[0]) & 0xFF:02x} is not UTF-8; save the file as UTF-8")
    return text


def parse_config(text: str, path: str) -> Message:
    """The message of a `config.pbtxt`; InvalidConfig with file, line and field for anything the schema does not know.

    A sign may stand apart from its number (`- 1`), as protobuf's readers in C++ and Java have it, but not the one in Python.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise InvalidConfig(f"{path}: is larger than {MAX_CONFIG_BYTES} characters")
    text = _OR_SIGN_APART.sub(lambda match: match[0] if match[1] is None else f"{match[1]}-", text)
    try:
        return _without_empty_entries(text_format.Parse(text, schema.ModelConfig()))
    except text_format.ParseError as error:
        line = error.GetLine()
        place = f"{path}:{line}" if line is not None else path
        reason = re.sub(r"^[0-9]+:[0-9]+ : ", "", str(error))
        raise InvalidConfig(f"{place}: {reason if len(reason) < 400 else '…' + reason[-400:]}{_nearest(reason)}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: {error}") from None


def _nearest(reason: str) -> str:
    """What to write instead of the field or value that protobuf's message says is unknown; "" where nothing is like it."""
    found = re.search(r'(Message|Enum) type "inference\.([\w.]+)" has no (?:field|value) named "?(\w+)', reason)
    if found is None:
        return ""
    kind, path, name = found.groups()
    *outer, last = path.split(".")
    scope = schema.ModelConfig.DESCRIPTOR.file.message_types_by_name
    for part in outer:
        scope, enums = scope[part].nested_types_by_name, scope[part].enum_types_by_name
    if kind == "Message":
        near = difflib.get_close_matches(name, [field.name for field in scope[last].fields], n=1)
        return f" Did you mean {near[0]}?" if near else ""
    values = [
        value.name for value in (enums if outer else schema.ModelConfig.DESCRIPTOR.file.enum_types_by_name)[last].values
    ]
    near = [value for value in values if value.partition("_")[2] == name.upper()]
    return f" Did you mean {near[0]}?" if near else f" Expected one of {', '.join(values)}."


def _without_empty_entries(config: Message) -> Message:
    """A map that is written as `{}`, which makes an entry of nothing for nothing in text format, means no entries."""
    for field, entries in config.ListFields():
        of = map_value(field)
        if of is not None and "" in entries and not (entries[""].ListFields() if of.message_type else entries[""]):
            del entries[""]
    return config


def parse_config_json(text: str, path: str) -> Message:
    """The message of a config given as JSON (the load API, an auto-completing model).

    Field names are the schema's; an unknown field or enum value is refused by its place in the document; enum strings may be
    in any case, as Triton reads them.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise InvalidConfig(f"{path}: is larger than {MAX_CONFIG_BYTES} characters")
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is valid JSON, and no text
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: not valid JSON: {error}") from None
    config = schema.ModelConfig()
    document = _checked(document, config.DESCRIPTOR, path, "")
    try:
        json_format.ParseDict(document, config)
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise InvalidConfig(f"{path}: {error}") from None
    return config


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a name that is in it twice, of which the json module would keep the last."""
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' is given twice")
    return document


def _checked(document: Any, descriptor: Descriptor, path: str, where: str) -> dict[str, Any]:
    """A copy of a JSON object with schema names and canonical enum values; InvalidConfig where it does not fit."""
    if not isinstance(document, Mapping):
        raise InvalidConfig(f"{path}: '{where or descriptor.name}' must be an object, got {type(document).__name__}")
    checked = {}
    for key, value in document.items():
        field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
        place = f"{where}.{key}" if where else str(key)
        if field is None:
            raise InvalidConfig(f"{path}: unknown field '{place}': {descriptor.full_name} has no field '{key}'")
        if field.name in checked:
            raise InvalidConfig(f"{path}: '{place}' is given twice")
        checked[field.name] = None if value is None else _checked_field(value, field, path, place)
    return checked


def _checked_field(value: Any, field: FieldDescriptor, path: str, place: str) -> Any:
    of = map_value(field)
    if of is not None:
        if not isinstance(value, Mapping):
            raise InvalidConfig(f"{path}: '{place}' must be an object, got {type(value).__name__}")
        return {key: _checked_value(element, of, path, f"{place}[{key!r}]") for key, element in value.items()}
    if field.is_repeated:
        if not isinstance(value, list):
            raise InvalidConfig(f"{path}: '{place}' must be an array, got {type(value).__name__}")
        return [_checked_value(element, field, path, f"{place}[{i}]") for i, element in enumerate(value)]
    return _checked_value(value, field, path, place)


def _checked_value(value: Any, field: FieldDescriptor, path: str, place: str) -> Any:
    if field.message_type is not None:
        return _checked(value, field.message_type, path, place)
    if field.enum_type is not None and isinstance(value, str):
        return _enum_name(value, field.enum_type, path, place)
    return value


def _enum_name(value: str, enum: EnumDescriptor, path: str, place: str) -> str:
    for name in enum.values_by_name:
        if name.upper() == value.upper():
            return str(name)
    raise InvalidConfig(f"{path}: '{place}' is {value!r}, expected one of {', '.join(enum.values_by_name)}")


def map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    """The descriptor of a map's values; None for a field that is no map."""
    entry = field.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else None


def to_json(message: Message) -> dict[str, Any]:
    """The document Triton prints for a message: schema names in the schema's order, every singular primitive, list and map
    even when empty, 64-bit integers as numbers, enums by name, map keys as strings; unset messages and oneofs left out."""
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        of = map_value(field)
        if of is not None:
            document[field.name] = {str(key): _json_value(value[key], of) for key in sorted(value)}
        elif field.is_repeated:
            document[field.name] = [_json_value(element, field) for element in value]
        elif not field.has_presence or message.HasField(field.name):
            document[field.name] = _json_value(value, field)
    return document


def _json_value(value: Any, field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return _shortest(value) if field.type == field.TYPE_FLOAT else value


def _shortest(value: float) -> float:
    """The shortest decimal that is this 32-bit float: 0.1, not 0.10000000149011612."""
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", value):
            return short
    return value
