"""Fixtures: a repository to write models into, and the recordings of a real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.tests.fakes.recordings import OWN
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
    """Recordings of a real Triton, and the repository they were made with."""
    return OWN / "triton"
