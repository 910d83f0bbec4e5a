"""The files by which the project is built elsewhere: they can be read, and name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted([ROOT / ".pre-commit-config.yaml", *(ROOT / ".github").rglob("*.yml")])
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "tests/conformance/README.md"]


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_yaml_can_be_read(path: Path) -> None:
    assert isinstance(_read(path), dict)


def test_every_supported_python_is_checked() -> None:
    declared = set(re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text()))
    assert set(_read(ROOT / ".github/workflows/check.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]) == declared


def test_every_target_that_is_called_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [path.read_text() for path in (*FILES, ROOT / ".ci/run", *(ROOT / page for page in PAGES))]
    called = {name for text in texts for name in re.findall(r"(?:^ *|run: |entry: |`)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"setup", "check", "types"} <= called <= targets


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    found = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text())
    assert [link for link in found if not (path.parent / link).exists()] == []
