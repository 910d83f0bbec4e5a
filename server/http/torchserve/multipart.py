"""multipart/form-data and urlencoded bodies as TorchServe's server takes them apart: views of the body, no copies.

    --boundary CRLF  header CRLF …  CRLF  data CRLF  --boundary CRLF  …  --boundary--

Lines may end with LF alone. A part that does not end (a truncated body) is left out, without an error. Of parts with one name
the last one counts. Where that is not wanted, both are refused (`strict`, `once`). A part with a file name keeps its content
type (application/octet-stream where it names none); a plain field has none. Names lose what TorchServe's network library
(Netty) takes out of them.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import falcon

from ....core.errors import InvalidRequest
from ....core.request import Part

MAX_PARTS = 1000
MAX_PART_HEADER = 16384
MAX_FIELDS = 1000
#: Control characters, which no form has.
_NO_FORM = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_OUTER_SPACE = re.compile(r"\A[ \t\n\v\f\r]+|[ \t\n\v\f\r]+\Z|\n")
#: What stands for a blank in the name of a part, and the quotes that stand for nothing.
_IN_PARTS = str.maketrans({**dict.fromkeys(":,=;", " "), '"': None})


def parse_multipart(body: bytearray | bytes, boundary: str, *, strict: bool = False) -> list[Part]:
    """The parts of a multipart body, in order; InvalidRequest where a part has no name or there are too many.

    `strict`: also where the body does not end with its boundary, or two parts have one name.
    """
    mark = b"--" + boundary.encode("latin-1")
    view, parts = memoryview(body), {}
    at = 0 if body.startswith(mark) else body.find(b"\n" + mark) + 1 or -1
    if at < 0:
        if strict:
            raise InvalidRequest(f"the multipart body does not have the boundary '{boundary}' that its content type names")
        return []
    while not body.startswith(b"--", at + len(mark)):
        head = body.find(b"\n", at + len(mark))
        blank = _BLANK_LINE.search(body, head, head + MAX_PART_HEADER) if head >= 0 else None
        end = body.find(b"\n" + mark, blank.end() - 1) if blank is not None else -1
        if blank is None or end < 0:
            if strict:
                raise InvalidRequest(f"the multipart body ends before its last boundary, --{boundary}--")
            break  # truncated
        last = end - 1 if body.startswith(b"\r", end - 1) else end
        part = _part(bytes(body[head + 1 : max(head + 1, blank.start())]), view[blank.end() : last])
        if strict and part.name in parts:
            raise InvalidRequest(f"the form's field '{part.name}' is given twice")
        parts[part.name] = part
        if len(parts) > MAX_PARTS:
            raise InvalidRequest(f"the multipart body has more than {MAX_PARTS} parts")
        at = end + 1
    return list(parts.values())


def _part(header: bytes, data: memoryview) -> Part:
    fields = {}
    for line in header.split(b"\n"):
        name, _, value = line.partition(b":")
        fields[name.strip().lower().decode("latin-1")] = value.strip().decode("utf-8", "replace")
    _, options = falcon.parse_header(fields.get("content-disposition", ""))
    field = field_name(options.get("name", "").translate(_IN_PARTS))
    if not field:
        raise InvalidRequest("a part of the multipart body has no name in its Content-Disposition")
    is_file = "filename" in options or "filename*" in options
    content_type = fields.get("content-type", "application/octet-stream").partition(";")[0].strip() if is_file else ""
    return Part(field, data, content_type)


def field_name(text: str) -> str:
    """A name without line breaks and outer white space, its tabs as blanks (Netty)."""
    return _OUTER_SPACE.sub("", text.replace("\r", " ").replace("\t", " "))


def is_form(body: bytes | bytearray | memoryview) -> bool:
    """Whether a body that is labelled as an urlencoded form may be one.

    `curl -d` and `--data-binary`, urllib and others give this label to whatever they send: JSON, a picture, a sentence.
    """
    raw = bytes(body)
    if b"=" not in raw or raw.lstrip()[:1] in (b"[", b"{", b'"') or _NO_FORM.search(raw):
        return False
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def parse_form(body: bytes | bytearray | memoryview, *, once: bool = False) -> list[Part]:
    """The fields of an urlencoded body. A bare word is an empty field, and none at all at the end (`curl -d word`).

    A line break in a value ends the form, as one at the end of a file does (`curl --data-binary @file`). `once`: names and
    values stay as they are, and a field that is given twice is an InvalidRequest.
    """
    fields, pieces = {}, bytes(body).split(b"&")
    if len(pieces) > MAX_FIELDS:
        raise InvalidRequest(f"the form has more than {MAX_FIELDS} fields")
    for index, piece in enumerate(pieces):
        name, equals, value = piece.partition(b"=")
        key, ended = _unquote(name).decode("utf-8", "replace"), b""
        if not once:
            key, (line, ended, _) = field_name(key), value.partition(b"\n")
            value = line.removesuffix(b"\r")
        if key and (equals or index < len(pieces) - 1):
            if once and key in fields:
                raise InvalidRequest(f"the form's field '{key}' is given twice")
            fields[key] = Part(key, _unquote(value))
        if ended:
            break
    return list(fields.values())


def _unquote(raw: bytes) -> bytes:
    return unquote_to_bytes(raw.replace(b"+", b" "))
