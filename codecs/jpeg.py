"""The head of a JPEG: whether a device's decoder reads it, and to the same pixels as libjpeg does.

Pure, a few microseconds for a picture: no pixel is decoded. nvJPEG reads more than what is let through here, but what it makes
of the rest differs from Pillow's (CMYK, RGB that was stored as such), is slow (progressive), or is an error that fails all
pictures of the call (12 bits, arithmetic coding, damaged files).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.tensor import Buffer

_START, _END = b"\xff\xd8", b"\xff\xd9"
_BASELINE, _HUFFMAN, _SCAN, _ADOBE = 0xC0, 0xC4, 0xDA, 0xEE
#: Starts of frames in other codings than baseline; C4, C8 and CC are none.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_HUFFMAN, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
#: Sampling of brightness (horizontal, vertical) with colours of (1, 1): 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1, 4:1:0.
_SAMPLINGS = frozenset({(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2)})


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a picture is not for a device's decoder."""

    reason: str


@dataclass(frozen=True, slots=True)
class Plain:
    """A baseline JPEG in YCbCr of 8 bits; its size in pixels."""

    width: int
    height: int


def head(data: Buffer) -> Plain | Unfit:
    """What `data` is, from its markers up to the first scan."""
    raw = data if isinstance(data, bytes | bytearray) else bytes(data)
    if raw[:2] != _START:
        return Unfit("a picture other than a JPEG")
    at, found, adobe = 2, None, -1
    while True:
        at, marker = _marker(raw, at)
        if marker in _ALONE:
            continue
        size = int.from_bytes(raw[at : at + 2], "big")
        if size < 2 or at + size > len(raw) or not marker:
            return Unfit("a damaged JPEG")
        body = raw[at + 2 : at + size]
        if marker == _SCAN:
            return _checked(found, adobe, complete=raw.endswith(_END, at + size) or raw.rfind(_END, at + size) >= 0)
        if marker in _FRAMES:
            if found is not None:  # decoders differ in which of them counts
                return Unfit("a damaged JPEG")
            found = _frame(marker, body)
        elif marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        at += size


def _marker(raw: bytes | bytearray, at: int) -> tuple[int, int]:
    """Where the next marker ends, and which it is; 0 where there is none."""
    if raw[at : at + 1] != b"\xff":
        return at, 0
    while raw[at : at + 1] == b"\xff":  # any number of them may stand before a marker
        at += 1
    return at + 1, raw[at] if at < len(raw) else 0


def _frame(marker: int, body: bytes | bytearray) -> Plain | Unfit:
    if marker != _BASELINE:
        return Unfit("a progressive JPEG" if marker == 0xC2 else "a JPEG that is not baseline")
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        return Unfit("a damaged JPEG")
    if body[0] != 8 or body[5] != 3:
        return Unfit(f"a JPEG of {body[5]} channels" if body[0] == 8 else f"a JPEG of {body[0]} bits")
    parts = [body[at : at + 3] for at in range(6, 15, 3)]
    if bytes(part[0] for part in parts) == b"RGB":
        return Unfit("a JPEG stored as RGB")
    (luma, *chroma) = [(part[1] >> 4, part[1] & 15) for part in parts]
    if luma not in _SAMPLINGS or chroma != [(1, 1), (1, 1)]:
        return Unfit("a JPEG with unusual sampling")
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return Plain(width, height) if width and height else Unfit("a JPEG that does not tell its size")


def _checked(found: Plain | Unfit | None, adobe: int, complete: bool) -> Plain | Unfit:
    if found is None:
        return Unfit("a damaged JPEG")
    if isinstance(found, Plain) and adobe == 0:
        return Unfit("a JPEG stored as RGB")
    if isinstance(found, Plain) and not complete:
        return Unfit("a truncated JPEG")
    return found
