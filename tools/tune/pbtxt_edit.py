"""Changing a few values of a `config.pbtxt` and nothing else: comments, order and spelling of the rest stay as they are.

The text is cut into tokens; the fields to change are found by their place in the message, never by a pattern in the text. What
comes out is parsed with the schema and compared with what was meant before it is given back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf import text_encoding

from ...server.repository.triton.pbtxt import Message, parse_config, schema

_TOKEN = re.compile(r"#[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[][{}<>:;,]|[^\s][^][\s{}<>:;,#\"']*")
_CLOSING = {"{": "}", "<": ">", "[": "]"}
_QUOTES = ('"', "'")


class CannotEdit(ValueError):
    """The file cannot be changed as asked without changing something else; the text says why."""


@dataclass(frozen=True)
class Token:
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Field:
    """A field and its value's tokens: of a message or list with the brackets, of a scalar the scalar itself."""

    name: str
    value: tuple[Token, ...]

    @property
    def text(self) -> str:
        """A scalar's value; adjacent strings are one, as in protobuf."""
        if self.value[0].text[0] not in _QUOTES:
            return self.value[0].text
        return "".join(text_encoding.CUnescape(token.text[1:-1]).decode() for token in self.value)


def edit(text: str, path: str, parameters: Mapping[str, str], count: int | None) -> str:
    """`text` with these parameters set and, unless None, the only instance group's `count`.

    CannotEdit where there are several instance groups; InvalidConfig where `text` is no configuration.
    """
    wanted = parse_config(text, path)
    for key, value in parameters.items():
        wanted.parameters[key].string_value = value
    if count is not None:
        _set_count(wanted, path, count)
    changed = text
    for key, value in parameters.items():
        changed = _with_parameter(changed, key, value)
    if count is not None:
        changed = _with_count(changed, count)
    if parse_config(changed, path) != wanted:
        raise CannotEdit(f"{path}: is written in a way that this command cannot change; set the values by hand")
    return changed


def _set_count(config: Message, path: str, count: int) -> None:
    if len(config.instance_group) > 1:
        raise CannotEdit(f"{path}: has {len(config.instance_group)} instance groups; set their counts by hand")
    if not config.instance_group:
        config.instance_group.append(schema.ModelInstanceGroup())
    config.instance_group[0].count = count


def _with_parameter(text: str, key: str, value: str) -> str:
    quoted = f'"{_escape(value)}"'
    for entry in reversed(list(_messages(text, "parameters"))):
        fields = {field.name: field for field in _fields(entry)}
        if "key" not in fields or fields["key"].text != key or "value" not in fields:
            continue
        for field in _fields(fields["value"].value[1:-1]):
            if field.name == "string_value":
                return text[: field.value[0].start] + quoted + text[field.value[-1].end :]
    return _appended(text, f'parameters {{ key: "{_escape(key)}" value {{ string_value: {quoted} }} }}')


def _with_count(text: str, count: int) -> str:
    groups = list(_messages(text, "instance_group"))
    if not groups:
        return _appended(text, f"instance_group [ {{ count: {count} }} ]")
    for field in _fields(groups[0]):
        if field.name == "count":
            return text[: field.value[0].start] + str(count) + text[field.value[-1].end :]
    opened = _opening(text, "instance_group")
    return f"{text[:opened]} count: {count}{text[opened:]}"


def _appended(text: str, line: str) -> str:
    return text + ("" if text.endswith("\n") or not text else "\n") + line + "\n"


def _escape(value: str) -> str:
    escaped: str = text_encoding.CEscape(value.encode(), as_utf8=False)
    return escaped


def _messages(text: str, name: str) -> Iterator[tuple[Token, ...]]:
    """The inner tokens of each message of a repeated field, written one by one or as a list."""
    for message in _bracketed(text, name):
        yield message[1:-1]


def _bracketed(text: str, name: str) -> Iterator[tuple[Token, ...]]:
    for field in _fields(tokens(text)):
        if field.name != name:
            continue
        if field.value[0].text == "[":
            yield from _elements(field.value[1:-1])
        else:
            yield field.value


def _opening(text: str, name: str) -> int:
    """Just after the bracket that opens the first message of a repeated field."""
    return next(iter(_bracketed(text, name)))[0].end


def tokens(text: str) -> tuple[Token, ...]:
    """Without comments."""
    return tuple(Token(m[0], m.start(), m.end()) for m in _TOKEN.finditer(text) if not m[0].startswith("#"))


def _elements(inner: Sequence[Token]) -> Iterator[tuple[Token, ...]]:
    at = 0
    while at < len(inner):
        if inner[at].text in _CLOSING:
            end = _end(inner, at)
            yield tuple(inner[at : end + 1])
            at = end
        at += 1


def _fields(inner: Sequence[Token]) -> Iterator[Field]:
    """The fields of a message, from the tokens between its brackets."""
    at = 0
    while at < len(inner):
        if inner[at].text in (";", ","):
            at += 1
            continue
        name, at = inner[at].text, at + 1
        if at < len(inner) and inner[at].text == ":":
            at += 1
        if at >= len(inner):
            return
        end = _end(inner, at) if inner[at].text in _CLOSING else _scalar_end(inner, at)
        yield Field(name, tuple(inner[at : end + 1]))
        at = end + 1


def _scalar_end(inner: Sequence[Token], at: int) -> int:
    while inner[at].text[0] in _QUOTES and at + 1 < len(inner) and inner[at + 1].text[0] in _QUOTES:
        at += 1
    return at


def _end(inner: Sequence[Token], at: int) -> int:
    """The place of the bracket that closes the one at `at`."""
    depth = 0
    for place in range(at, len(inner)):
        depth += (inner[place].text in _CLOSING) - (inner[place].text in _CLOSING.values())
        if depth == 0:
            return place
    raise CannotEdit("a bracket is not closed")
