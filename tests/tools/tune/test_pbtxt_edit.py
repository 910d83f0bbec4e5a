"""Editing config.pbtxt: what is asked for changes, every other character stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.pbtxt import parse_config
from jitney.tools.tune.pbtxt_edit import CannotEdit, edit

FILE = """# A model.  { not a message: "parameters { key: 'a' }"
name: "m"   # its name
backend: 'pytorch'
instance_group [
  {
    count: 1  # one
    kind: KIND_CPU
  }
]
parameters { key: "freeze" value { string_value: "false" } }  # for now
parameters: { key: 'two words' value: { string_value: "fro" "zen" } };
parameters [ { key: "a", value: < string_value: 'x' > }, { key: "b" value { string_value: "}" } } ]
"""


@pytest.mark.parametrize(
    ("key", "value", "before", "after"),
    [
        ("freeze", "true", '"false"', '"true"'),
        ("two words", "one", '"fro" "zen"', '"one"'),
        ("a", "y", "'x'", '"y"'),
        ("b", '"{\n', '"}"', '"\\"{\\n"'),
    ],
)
def test_a_value_is_replaced_in_place(key: str, value: str, before: str, after: str) -> None:
    changed = edit(FILE, "f", {key: value}, None)
    assert changed == FILE.replace(before, after)
    assert parse_config(changed, "f").parameters[key].string_value == value


def test_a_new_parameter_goes_to_the_end() -> None:
    changed = edit(FILE, "f", {"channels_last": "true"}, None)
    assert changed == FILE + 'parameters { key: "channels_last" value { string_value: "true" } }\n'
    without_newline = edit('name: "m"', "f", {"x": "1"}, None)
    assert without_newline.splitlines()[0] == 'name: "m"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FILE, FILE.replace("count: 1  # one", "count: 4  # one")),
        ("instance_group [ { kind: KIND_CPU } ]\n", "instance_group [ { count: 4 kind: KIND_CPU } ]\n"),
        ("instance_group { }\n", "instance_group { count: 4 }\n"),
        ('name: "m"\n', 'name: "m"\ninstance_group [ { count: 4 } ]\n'),
        ("", "instance_group [ { count: 4 } ]\n"),
    ],
)
def test_the_count(text: str, expected: str) -> None:
    assert edit(text, "f", {}, 4) == expected


def test_both_at_once_and_twice_is_once() -> None:
    changed = edit(FILE, "f", {"freeze": "true", "new": "n"}, 2)
    config = parse_config(changed, "f")
    assert (config.instance_group[0].count, config.parameters["new"].string_value) == (2, "n")
    assert edit(changed, "f", {"freeze": "true", "new": "n"}, 2) == changed
    assert FILE.splitlines()[0] in changed


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    text = "".join(f'parameters {{ key: "k" value {{ string_value: "{value}" }} }}\n' for value in "ab")
    changed = edit(text, "f", {"k": "c"}, None)
    assert parse_config(changed, "f").parameters["k"].string_value == "c"


def test_several_groups_are_the_users_own() -> None:
    text = "instance_group [ { count: 1 kind: KIND_CPU }, { count: 1 kind: KIND_CPU } ]"
    with pytest.raises(CannotEdit, match="has 2 instance groups; set their counts by hand"):
        edit(text, "f", {}, 2)
    assert edit(text, "f", {"x": "1"}, None).startswith(text)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="f:1"):
        edit("nonsense {", "f", {"x": "1"}, None)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=12), max_size=4), st.integers(1, 64))
def test_whatever_is_written_is_what_is_read(parameters: dict[str, str], count: int) -> None:
    try:
        [text.encode() for pair in parameters.items() for text in pair]
    except UnicodeEncodeError:
        return  # a lone surrogate is no text that a file could hold
    wanted = parse_config(FILE, "f")
    for key, value in parameters.items():
        wanted.parameters[key].string_value = value
    wanted.instance_group[0].count = count
    assert parse_config(edit(FILE, "f", parameters, count), "f") == wanted
