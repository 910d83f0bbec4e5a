"""Multipart and urlencoded bodies: taken apart or refused, and what is read strictly is read the same leniently."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidRequest
from jitney.server.http.torchserve.body import read_parts, read_parts_strictly

from .mutations import mutated

PARTS = st.builds(
    lambda name, more, data: b'Content-Disposition: form-data; name="%s"%s\r\n\r\n%s' % (name, more, data),
    st.sampled_from((b"data", b"a", b"", b"\xc3\xa9")),
    st.sampled_from((b"", b'; filename="f"\r\nContent-Type: text/plain')),
    st.binary(max_size=20),
)
BODIES = st.builds(
    lambda parts: b"".join(b"--b\r\n%s\r\n" % part for part in parts) + b"--b--\r\n", st.lists(PARTS, max_size=3)
)
FORMS = st.builds(
    lambda pairs: b"&".join(b"%s=%s" % pair for pair in pairs),
    st.lists(st.tuples(st.sampled_from((b"a", b"b", b"%61")), st.binary(max_size=5)), max_size=4),
)
TYPES = st.sampled_from(
    (
        "multipart/form-data; boundary=b",
        'multipart/form-data; boundary="b"',
        "multipart/form-data; boundary=",
        "multipart/form-data",
    )
)


def told(parts: list[Any]) -> list[tuple[str, bytes, str]]:
    return [(part.name, bytes(part.data), part.content_type) for part in parts]


def check(body: bytes, kind: str) -> None:
    try:
        lenient = told(read_parts(body, kind))
    except InvalidRequest as error:
        assert str(error)
        lenient = None
    try:
        strict = told(read_parts_strictly(body, kind))
    except InvalidRequest as error:
        assert str(error)
        return
    assert sum(len(data) for _, data, _ in strict) <= len(body)
    if kind.startswith("multipart"):
        assert strict == lenient


@given(mutated(BODIES), TYPES)
def test_multipart(body: bytes, kind: str) -> None:
    check(body, kind)


@given(mutated(FORMS))
def test_urlencoded(body: bytes) -> None:
    check(body, "application/x-www-form-urlencoded")


@given(st.binary(max_size=40), st.text(st.characters(max_codepoint=255), max_size=30))
def test_any_content_type(body: bytes, kind: str) -> None:
    check(body, kind)
