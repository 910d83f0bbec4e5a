"""Bodies in chunks: what they hold does not depend on the pieces, and is what a plain reading of the standard gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jitney.server.http.engine.body import ChunkedReceiver

from .mutations import mutated, pieces

LIMIT = 500
CHUNKS = st.builds(
    lambda parts, extension, trailer: (
        b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension, p) for p in parts if p) + b"0\r\n" + trailer + b"\r\n"
    ),
    st.lists(st.binary(max_size=20), max_size=5),
    st.sampled_from((b"", b";a=b", b' ; a="b"')),
    st.sampled_from((b"", b"A: b\r\n")),
)


def read(parts: list[bytes]) -> tuple[bytes | None, int, bool]:
    """The body where it is whole, how many bytes it took, whether it is refused."""
    receiver, taken = ChunkedReceiver(LIMIT), 0
    for part in parts:
        used = receiver.received(part)
        taken += used
        if receiver.completed or receiver.error or used < len(part):
            break
    body = bytes(receiver.body) if receiver.completed and receiver.error is None else None
    assert len(receiver.body) <= LIMIT
    refused = receiver.error is not None
    receiver.close()
    return body, taken if body is not None else 0, refused


def plainly(data: bytes) -> bytes | None:
    """The body by RFC 9112, 7.1, None where it is no whole one."""
    body, at = b"", 0
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end].partition(b";")[0].rstrip(b" \t") or b"x", 16)
        except ValueError:
            return None
        at = end + 2
        if size == 0:
            return body if data.startswith(b"\r\n", at) or b"\r\n\r\n" in data[at:] else None
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        body, at = body + data[at : at + size], at + size + 2
    return None


@given(mutated(CHUNKS), st.lists(st.integers(0, 300), max_size=8))
def test_the_pieces_change_nothing_and_what_is_taken_is_plain(data: bytes, cuts: list[int]) -> None:
    body, taken, refused = read([data])
    assert read(pieces(data, cuts)) == (body, taken, refused)
    if body is not None:
        assert body == plainly(data)
