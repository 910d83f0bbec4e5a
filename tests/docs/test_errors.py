"""The texts that docs/errors.md explains are those that the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.core import errors
from jitney.tests.fakes.pages import ROOT
from jitney.tools.dev.reference.errors import classes

PAGE = (ROOT / "docs/errors.md").read_text().partition("## All errors")[0]
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]
TEXTS = [text for row in ROWS for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def _strings(path: Path) -> Iterator[str]:
    """The strings of a file; what an f-string fills in is a NUL."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def said() -> list[str]:
    rooms = [path for room in ("core", "codecs", "backends", "server") for path in (ROOT / room).rglob("*.py")]
    return [text for path in rooms for text in _strings(path)]


def test_there_are_texts() -> None:
    assert len(ROWS) > 40 and len(TEXTS) >= len(ROWS)


@pytest.mark.parametrize("text", TEXTS)
def test_the_code_says_it(text: str, said: list[str]) -> None:
    pattern = re.compile(".*".join(map(re.escape, text.split("…"))), re.DOTALL)
    assert any(pattern.search(each) for each in said), text


def test_every_class_of_error_is_listed() -> None:
    assert errors.QueueFull in classes() and errors.JitneyError not in classes()
    page = (ROOT / "docs/errors.md").read_text()
    assert [each.__name__ for each in classes() if f"| {each.__name__} |" not in page] == []
