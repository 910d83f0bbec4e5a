"""Taking form bodies apart: what is whole is kept, what is cut off is not, and no input ends in anything but parts or a 400."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidRequest
from jitney.server.http.torchserve.multipart import MAX_FIELDS, MAX_PARTS, parse_form, parse_multipart


def part(name: str, data: bytes, extra: str = "", content_type: str = "") -> bytes:
    head = f'--BB\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n'
    return (head + (f"Content-Type: {content_type}\r\n" if content_type else "") + "\r\n").encode() + data + b"\r\n"


def shown(body: bytes) -> list[tuple[str, bytes, str]]:
    return [(p.name, bytes(p.data), p.content_type) for p in parse_multipart(body, "BB")]


@given(st.lists(st.binary(max_size=50).filter(lambda data: b"--BB" not in data), max_size=5))
def test_any_bytes_come_back(values: list[bytes]) -> None:
    body = b"".join(part(f"p{n}", value, '; filename="f"', "image/png") for n, value in enumerate(values)) + b"--BB--\r\n"
    assert shown(body) == [(f"p{n}", value, "image/png") for n, value in enumerate(values)]


@given(st.binary(max_size=200))
def test_any_body_gives_parts_or_a_refusal(body: bytes) -> None:
    for candidate in (body, b"--BB" + body, b"--BB\r\n" + body, part("a", body)):
        try:
            parse_multipart(candidate, "BB")
        except InvalidRequest:
            pass


def test_content_types() -> None:
    body = (
        part("file", b"a", '; filename="x"')
        + part("typed", b"b", '; filename="x"', "text/plain; charset=latin-1")
        + part("field", b"c", "", "application/json")
        + b"--BB--"
    )
    assert shown(body) == [("file", b"a", "application/octet-stream"), ("typed", b"b", "text/plain"), ("field", b"c", "")]


def test_the_last_of_one_name_counts() -> None:
    assert shown(part("a", b"first") + part("b", b"x") + part("a", b"second") + b"--BB--\r\n") == [
        ("a", b"second", ""),
        ("b", b"x", ""),
    ]


@pytest.mark.parametrize("cut", [1, 4, 8, 10, 30, 60, 70])
def test_a_body_that_ends_early_keeps_what_was_whole(cut: int) -> None:
    whole, rest = part("a", b"kept"), part("b", b"lost")
    assert shown((whole + rest + b"--BB--\r\n")[: len(whole) + min(cut, len(rest))]) in ([], [("a", b"kept", "")])


def test_a_preamble_and_an_epilogue_are_left_out() -> None:
    assert shown(b"preamble\r\n" + part("a", b"x") + b"--BB--\r\nepilogue") == [("a", b"x", "")]
    assert shown(b"") == [] and shown(b"--BB--\r\n") == [] and shown(b"no boundary at all") == []


@pytest.mark.parametrize("head", ["Content-Type: a/b", 'Content-Disposition: form-data; name=""', ""])
def test_a_part_without_a_name_is_refused(head: str) -> None:
    with pytest.raises(InvalidRequest, match="no name"):
        shown(f"--BB\r\n{head}\r\n\r\nx\r\n--BB--\r\n".encode())


def test_lines_may_end_with_lf_alone() -> None:
    body = part("a", b"x", '; filename="f"', "text/plain") + part("b", b"") + b"--BB--\r\n"
    assert shown(body.replace(b"\r\n", b"\n")) == shown(body) == [("a", b"x", "text/plain"), ("b", b"", "")]


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [(" a b ", "a b"), ("a;b", "a b"), ("a:b", "a b"), ("a,b", "a b"), ("a=b", "a b"), ("a\tb", "a b"), ("a[0]", "a[0]")],
)
def test_names_are_what_torchserve_s_network_library_makes_of_them(name: str, cleaned: str) -> None:
    assert shown(part(name, b"x") + b"--BB--\r\n") == [(cleaned, b"x", "")]


def test_too_many_parts_or_fields_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_PARTS} parts"):
        shown(b"".join(part(f"p{n}", b"") for n in range(MAX_PARTS + 1)) + b"--BB--")
    with pytest.raises(InvalidRequest, match=f"more than {MAX_FIELDS} fields"):
        parse_form(b"&".join(b"a=1" for _ in range(MAX_FIELDS + 1)))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"word", []),
        (b"a=1&word", [("a", b"1")]),
        (b"word&a=1", [("word", b""), ("a", b"1")]),
        (b"a=1&a=2", [("a", b"2")]),
        (b"a%20b=%00%ff+x", [("a b", b"\x00\xff x")]),
        (b"=1&a==2", [("a", b"=2")]),
        (b"a=1\n", [("a", b"1")]),
        (b"a=1\r\nb=2&c=3", [("a", b"1")]),
        (b" a =1&b\n=2", [("a", b"1"), ("b", b"2")]),
        (b"a=%0A", [("a", b"\n")]),
    ],
)
def test_forms(body: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert [(field.name, field.data) for field in parse_form(body)] == expected


def test_where_nothing_is_dropped_line_breaks_belong_to_the_value() -> None:
    assert [(field.name, field.data) for field in parse_form(b"a=1\r\n2&b=3\n", once=True)] == [
        ("a", b"1\r\n2"),
        ("b", b"3\n"),
    ]
