from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidConfig
from jitney.server.settings import properties

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXT, TEXT))
def test_what_is_written_is_read_back(mapping: dict[Any, Any]) -> None:
    text = properties.dump(mapping, ["Saving snapshot"])
    assert text.isascii()
    assert properties.parse(text) == mapping
    assert properties.decode(text.encode()) == mapping


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("a:b", {"a": "b"}),
        ("a b c", {"a": "b c"}),
        ("  a  =  b  ", {"a": "b  "}),
        ("a", {"a": ""}),
        ("a =", {"a": ""}),
        ("=b", {"": "b"}),
        ("# c\n! d\n\n \t\nx=1", {"x": "1"}),
        ("a=b#c", {"a": "b#c"}),
        ("a=1\ra=2\r\nb=3", {"a": "2", "b": "3"}),
        ("a=x,\\\n   y,\\\n\tz", {"a": "x,y,z"}),
        ("a=x\\\n# no comment", {"a": "x# no comment"}),
        ("# comment \\\na=1", {"a": "1"}),
        ("a=x\\\\\nb=1", {"a": "x\\", "b": "1"}),
        ("a=x\\", {"a": "x"}),
        ("a\\:b\\=c\\ d=e", {"a:b=c d": "e"}),
        ("a=http\\://h\\:80", {"a": "http://h:80"}),
        ("a=\\u00e9\\t\\n\\q", {"a": "é\t\nq"}),
        ("a=\\uD83D\\uDE00", {"a": "😀"}),
        ("a=b=c:d", {"a": "b=c:d"}),
    ],
)
def test_reads_as_java_does(text: str, expected: dict[str, str]) -> None:
    assert properties.parse(text) == expected


@pytest.mark.parametrize("text", ["a=1\nb=\\u12", "a=1\nb=\\uzzzz", "a=1\nb=\\uD83D"])
def test_a_malformed_escape_names_file_and_line(text: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^my\.properties:2: "):
        properties.parse(text, "my.properties")


def test_models_json_of_the_page_is_one_value() -> None:
    text = 'models={\\\n  "m": {\\\n    "1.0": {\\\n        "batchSize": 3\\\n    }\\\n  }\\\n}\nnext=1\n'
    assert properties.parse(text) == {"models": '{"m": {"1.0": {"batchSize": 3}}}', "next": "1"}


def test_bytes_that_are_no_utf8_are_read_as_latin1() -> None:
    assert properties.decode(b"a=\xe9") == {"a": "é"}
    assert properties.decode("\ufeffa=é".encode()) == {"a": "é"}


def test_writes_as_java_does() -> None:
    assert properties.dump({"k 1": " http://h:80 #\n"}) == "k\\ 1=\\ http\\://h\\:80 \\#\\n\n"
