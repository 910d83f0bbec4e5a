"""Content codings of `infer`: gzip and deflate (zlib's format), both ways, with a cap on what a request expands to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ....core.errors import InvalidRequest, PayloadTooLarge
from .errors import UnsupportedEncoding

_WBITS = {"gzip": 31, "deflate": 15}
#: Tensors hardly compress, and level 6 costs several times as much as level 1.
_LEVEL = 1
#: Bytes that are expanded at a time, and gzip members that one body may consist of.
_SLICE, _MAX_MEMBERS = 1 << 16, 64


def decompress(body: bytes | memoryview, encoding: str | None, limit: int) -> bytes | memoryview:
    """The body as it was before `Content-Encoding: encoding`, of at most `limit` bytes.

    Raises UnsupportedEncoding, PayloadTooLarge as soon as the limit is passed, or InvalidRequest for damaged data.
    """
    if not encoding or encoding == "identity":
        return body
    if encoding not in _WBITS:
        raise UnsupportedEncoding("Unsupported compression type")
    return b"".join(_inflate(memoryview(body), encoding, limit))


def _inflate(body: memoryview, encoding: str, limit: int) -> Iterator[bytes]:
    """Expands slice by slice, so that neither a bomb nor a chain of tiny gzip members costs more than its share."""
    members, left = 1, limit
    decompressor = zlib.decompressobj(_WBITS[encoding])
    for start in range(0, len(body), _SLICE):
        rest: bytes | memoryview = body[start : start + _SLICE]
        while rest:
            if decompressor.eof:
                members += 1
                decompressor = zlib.decompressobj(_WBITS[encoding])
            if members > (_MAX_MEMBERS if encoding == "gzip" else 1):
                raise InvalidRequest(f"the request body is not {encoding}: more data follows its end")
            try:
                part = decompressor.decompress(rest, left + 1)
            except zlib.error as error:
                raise InvalidRequest(f"the request body is not {encoding}: {error}") from None
            left -= len(part)
            if left < 0:
                raise PayloadTooLarge(f"the request body expands to more than the maximum of {limit} bytes")
            rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
            yield part
    if not decompressor.eof:
        raise InvalidRequest(f"the request body is not {encoding}: it ends too early")


@lru_cache(64)
def choose(accept: str | None) -> str:
    """The coding for a reply: the one of Accept-Encoding with the highest q, the first of equals; "" for none.

    Only lower-case gzip and deflate count (Triton); identity competes with them, everything else is passed over.
    """
    if accept is None:
        return ""
    best, best_q = "", 0.0
    for item in accept.split(","):
        name, _, parameters = item.strip().partition(";")
        name = name.strip()
        if name in ("gzip", "deflate", "identity") and (q := _quality(parameters)) > best_q:
            best, best_q = name, q
    return "" if best == "identity" else best


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def compress(pieces: Sequence[bytes | memoryview], encoding: str) -> bytes:
    """A body in gzip or deflate.

    The window is no larger than the body: zlib clears the memory of it, and for the usual 32 KiB that takes ten times as long as
    compressing a small answer.
    """
    bits = min(15, max(9, sum(map(len, pieces)).bit_length()))
    compressor = zlib.compressobj(_LEVEL, wbits=_WBITS[encoding] - 15 + bits, memLevel=max(2, bits - 7))
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])
