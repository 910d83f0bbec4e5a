"""Examples that are nearly right: bytes that begin as what the grammar allows, with a few changes."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

#: What is put in somewhere: what ends lines and parts, lengths, what is large, what is no text.
SPICE = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"--",
    b"0",
    b"-1",
    b"+1",
    b"1e9",
    b"0x10",
    b"%2e%2e",
    b"../",
    b"\xff\xfe",
    b"18446744073709551616",
    b"9" * 30,
    b"\r\n\r\n",
    b"{",
    b"[",
    b"}",
    b"\\u0000",
    b"\xc3\x28",
    b"NaN",
)


@st.composite
def mutated(draw: st.DrawFn, base: SearchStrategy[bytes], most: int = 4) -> bytes:
    """A few pieces of what `base` gives are left out, doubled, replaced or spiced; often nothing at all is."""
    data = draw(base)
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((0, 1, 1, 2, 4, 16))))
        piece = draw(st.sampled_from(("out", "twice", "spice", "spice", "noise")))
        put = {"out": b"", "twice": data[at:end] * 2}.get(piece)
        if put is None:
            put = draw(st.sampled_from(SPICE)) if piece == "spice" else draw(st.binary(max_size=6))
        data = data[:at] + put + data[end:]
    return data


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes, cut at these places."""
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(at)]
