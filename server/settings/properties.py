"""Java properties: how `config.properties` and snapshots are written down (java.util.Properties' text format).

# comment, or ! comment            a line of its own; never continued
key=value   key:value   key value  the first unescaped =, : or blank ends the key
key=a,\\                            an odd number of backslashes at the end continues on the next line,
    b                              whose leading blanks are dropped
\\t \\n \\r \\f \\uXXXX \\= \\: \\\\       escapes in keys and values; a backslash before any other character is dropped
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from ...core.errors import InvalidConfig

_BLANKS = " \t\f"
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_ESCAPED = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f", "\\": "\\\\", "=": "\\=", ":": "\\:", "#": "\\#", "!": "\\!"}
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")


def parse(text: str, where: str = "config.properties") -> dict[str, str]:
    """Reads properties; of a key that stands twice the last value counts. InvalidConfig names file and line."""
    properties: dict[str, str] = {}
    for number, line in _logical_lines(text):
        key, value = _split(line)
        try:
            properties[_unescape(key)] = _unescape(value)
        except ValueError as error:
            raise InvalidConfig(f"{where}:{number}: {error}") from None
    return properties


def decode(raw: bytes, where: str = "config.properties") -> dict[str, str]:
    """Reads properties from a file's bytes: UTF-8, else ISO-8859-1 (what Java reads)."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("iso-8859-1")
    return parse(text, where)


def dump(properties: Mapping[str, str], comments: Iterable[str] = ()) -> str:
    """Writes properties as `java.util.Properties.store` does: ASCII, `key=value` lines under `#` comments."""
    lines = [f"#{comment}" for comment in comments]
    lines += [f"{_escape(key, every_blank=True)}={_escape(value)}" for key, value in properties.items()]
    return "".join(f"{line}\n" for line in lines)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields (number of the first line, text) with comments and blank lines left out and continuations joined."""
    started, joined, continues = 0, "", False
    for number, natural in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        line = natural.lstrip(_BLANKS)
        if not continues:
            if not line or line[0] in "#!":
                continue
            started, joined = number, ""
        continues = (len(line) - len(line.rstrip("\\"))) % 2 == 1
        joined += line[:-1] if continues else line
        if not continues:
            yield started, joined
    if continues and joined:
        yield started, joined


def _split(line: str) -> tuple[str, str]:
    end = 0
    while end < len(line) and line[end] not in "=:" + _BLANKS:
        end += 2 if line[end] == "\\" else 1
    key, rest = line[:end], line[end:].lstrip(_BLANKS)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANKS)
    return key, rest


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    out, at = [], 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\" or at == len(text):
            out.append("" if char == "\\" else char)
        elif text[at] == "u":
            if not _HEX4.fullmatch(text, at + 1, at + 5):
                raise ValueError(f"malformed escape '{text[at - 1 : at + 5]}', expected \\u and four hexadecimal digits")
            out.append(chr(int(text[at + 1 : at + 5], 16)))
            at += 5
        else:
            out.append(_CONTROLS.get(text[at], text[at]))
            at += 1
    return _join_surrogates("".join(out))


def _join_surrogates(text: str) -> str:
    """Java writes characters beyond U+FFFF as two escapes; a half without its other half is refused."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError("an escape names half of a surrogate pair, expected both halves") from None


def _escape(text: str, every_blank: bool = False) -> str:
    out = []
    for at, char in enumerate(text):
        if char == " " and (every_blank or at == 0):
            out.append("\\ ")
        elif char in _ESCAPED:
            out.append(_ESCAPED[char])
        elif " " <= char <= "~":
            out.append(char)
        else:
            raw = char.encode("utf-16-be", "surrogatepass")
            out.extend(f"\\u{raw[i : i + 2].hex().upper()}" for i in range(0, len(raw), 2))
    return "".join(out)
