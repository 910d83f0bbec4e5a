"""Handlers' JSON against the standard library: the same values, the same text, the same refusals."""

from __future__ import annotations

import collections
import enum
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitney.backends import handler_json

_FLOATS = (
    st.floats() | st.floats(1e-5, 1e17) | st.floats(width=32) | st.sampled_from([1e-4, 9.999e-5, 1e15, 1e16, -0.0, 5e-324])
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(1 << 80), 1 << 80) | _FLOATS | st.text()
_KEYS = st.text() | st.integers() | st.floats() | st.booleans() | st.none()


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(children)
        | st.lists(children).map(tuple)
        | st.dictionaries(st.text(), children)
        | st.dictionaries(_KEYS, children)
        | st.lists(_FLOATS)
    )


_DOCUMENTS = st.recursive(_SCALARS, _containers, max_leaves=30)


def outcome(function: Any, *arguments: Any, **named: Any) -> Any:
    """What it returned, with the types of all values, or the exception's type."""
    try:
        return repr(function(*arguments, **named))
    except (TypeError, ValueError, RecursionError) as error:
        return "ValueError" if isinstance(error, ValueError) else type(error).__name__


def expected_text(element: Any) -> bytes:
    return json.dumps(element, indent=2).encode()


def same_text(element: Any) -> None:
    assert outcome(handler_json.pretty, element) == outcome(expected_text, element)


def standard(data: bytes) -> Any:
    """As TorchServe reads it: UTF-8 alone, without a byte order mark."""
    return json.loads(data.decode("utf-8"))


class TestRead:
    @settings(max_examples=500, deadline=None)
    @given(_DOCUMENTS, st.sampled_from([None, 2]), st.booleans())
    def test_any_document(self, document: Any, indent: int | None, ascii_only: bool) -> None:
        text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert outcome(handler_json.read, memoryview(text)) == outcome(standard, text)

    @settings(max_examples=500, deadline=None)
    @given(st.binary() | st.lists(st.sampled_from([*b'[]{}:,"\\ud80019-+.eE \n\tNaN\x00\xff\xed\xa0\x80'])).map(bytes))
    def test_any_bytes(self, data: bytes) -> None:
        assert outcome(handler_json.read, bytearray(data)) == outcome(standard, data)

    @settings(max_examples=300, deadline=None)
    @given(st.from_regex(rb"\A-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?\Z"))
    def test_any_number(self, data: bytes) -> None:
        assert outcome(handler_json.read, data) == outcome(json.loads, data)

    @pytest.mark.parametrize(
        "data",
        [
            *(b"NaN", b"[-Infinity]", b"-0", b"-0.0", b"1e400", b"-1e400", b"1" * 400, b"1" * 400 + b".5"),
            *(b"18446744073709551616", b"-9223372036854775809", b"1" * 4300, b"1" * 4301),
            *(b"", b" ", b"01", b"1.", b"[1,]", b"nul", b"1 1", b"\xc2\xa01", b"'a'", b"1\x00"),
            *(b'{"a": 1, "b": 2, "a": 3}', b'{"": {"": []}}', b'{"\\u0061": 1, "a": 2}', b"{1: 2}"),
            *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\xed\xa0\x80"', b'"\xff"', b'"a\x01"', b'"\\x"'),
            *('{"é": 1}'.encode(code) for code in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1")),
        ],
    )
    def test_where_parsers_differ(self, data: bytes) -> None:
        assert outcome(handler_json.read, data) == outcome(standard, data)

    def test_other_encodings_are_refused(self) -> None:
        for code in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"):
            with pytest.raises(ValueError):
                handler_json.read('{"a": 1}'.encode(code))

    def test_too_deep_a_document_is_refused(self) -> None:
        with pytest.raises(RecursionError):
            handler_json.read(b"[" * 1_000_000)  # more than any version's C stack is allowed to take


class Name(str):
    def __str__(self) -> str:
        return "never this"

    __repr__ = __str__


class Number(int):
    def __repr__(self) -> str:
        return "never this"


class Colour(enum.IntEnum):
    RED = 1


class Level(enum.StrEnum):
    HIGH = "high"


class Plain(enum.Enum):
    A = "a"


Point = collections.namedtuple("Point", "x y")


class TestPretty:
    @settings(max_examples=500, deadline=None)
    @given(_DOCUMENTS)
    def test_any_document(self, document: Any) -> None:
        same_text(document)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(_FLOATS, min_size=1, max_size=5))
    def test_any_floats(self, values: list[float]) -> None:
        same_text(values)
        for value in values:
            same_text([value])

    @pytest.mark.parametrize("power", range(-16, 60))
    def test_floats_around_powers_of_two(self, power: int) -> None:
        values = [2.0**power]
        for _ in range(300):
            values = [math.nextafter(values[0], 0), *values, math.nextafter(values[-1], math.inf)]
        same_text(values)

    @pytest.mark.parametrize(
        "element",
        [
            *(
                Name("é"),
                Number(3),
                Colour.RED,
                Level.HIGH,
                Plain.A,
                Point(1, 2.5),
                10**4300,
                10**4301,
                "\ud800",
                "\x7f\u2028",
            ),
            *(
                [],
                (),
                {},
                [[]],
                [{}],
                {"a": ()},
                [[], {}, [[]]],
                None,
                True,
                0.1,
                "x",
                math.nan,
                [math.inf, -math.inf, math.nan],
            ),
            *({1: {}, None: [], False: 2, 1.5: 3, math.nan: 4}, {1: 2, None: 3, False: 4, 2.5: 5}, {(1, 2): 3}, {(1,): [4]}),
            *({Name("k"): [1]}, {Name("k"): 1}, {Number(4): [1]}, {Colour.RED: 1}, {Level.HIGH: [1]}, {b"k": 1}),
            *(collections.OrderedDict(b=1, a=[2]), collections.defaultdict(list, a=[1]), collections.Counter("ab")),
            *({1, 2}, object(), [object()], {"a": [1, {2}]}, b"x", [1, b"x"], 1j, [1.5, Number(2)], [True, 1.5, None, "a"]),
        ],
        ids=lambda element: type(element).__name__,
    )
    def test_what_only_some_encoders_write(self, element: Any) -> None:
        same_text(element)

    def test_a_circle_is_refused(self) -> None:
        circle: list[Any] = [1.5]
        circle.append({"a": [circle, circle]})
        with pytest.raises(ValueError, match="Circular reference"):
            handler_json.pretty(circle)

    @pytest.mark.parametrize("depth", [handler_json.DEPTH - 1, handler_json.DEPTH, handler_json.DEPTH + 1, 100])
    def test_depth(self, depth: int) -> None:
        element: Any = {"x": [0.5, 1]}
        for _ in range(depth):
            element = [element, {"a": element}] if depth < 30 and len(repr(element)) < 9999 else [element]
        same_text(element)

    def test_without_the_encoder_in_c(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json.encoder, "c_make_encoder", None)
        assert handler_json._encoders() == []
        monkeypatch.setattr(handler_json, "_ENCODERS", [])
        same_text({"a": [1, {"b": 2.5}]})
