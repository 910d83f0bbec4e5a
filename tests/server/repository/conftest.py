"""Fixtures: a repository to write models into, and the recordings of a real Triton."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.tests.fakes.repository import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "models").mkdir()
    folder = Folder(tmp_path / "models")
    yield folder
    for repository in folder.opened:
        repository.close()


@pytest.fixture(scope="session")
def triton_kit() -> Path:
    """Recordings of a real Triton and the repository they were made with; the tests that need them skip without."""
    root = Path(__file__).parents[3]
    path = Path(os.environ.get("JITNEY_CONFORMANCE", root.parent / "shared" / "conformance")) / "triton"
    if not (path / "model_repository").is_dir():
        pytest.skip("the recordings of Triton are not on this machine")
    return path
