"""docs/security.md and docs/reliability.md name tests that there are, and what is said of torch is pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE + (ROOT / "docs" / "reliability.md").read_text())
HOLES = re.findall(r"^\| (\d+) \|.*\|$", PAGE, re.MULTILINE)


def test_every_hole_has_a_row_with_tests() -> None:
    assert [int(number) for number in HOLES] == list(range(1, 21))
    for row in re.findall(r"^\| \d+ \|.*\|$", PAGE, re.MULTILINE):
        assert "::test_" in row, row[:60]


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_a_named_test_exists(file: str, test: str) -> None:
    found = [path for path in (ROOT / "tests").rglob(file) if re.search(rf"^def {test}\(", path.read_text(), re.MULTILINE)]
    assert found, f"no {file} has {test}"


def test_torch_is_one_that_has_the_fixes() -> None:
    """CVE-2025-32434 was fixed in 2.6, CVE-2026-24747 in 2.10: with an older torch, weights could run code."""
    pinned = re.search(r"^torch==(\d+)\.(\d+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned and (int(pinned[1]), int(pinned[2])) >= (2, 10)
