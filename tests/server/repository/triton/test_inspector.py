"""Looking into many model files with few processes."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton import complete, inspector
from jitney.server.repository.triton.inspector import Helper
from jitney.server.repository.triton.repository import TritonRepository
from jitney.tools.dev.many_models import name_of, write_models


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """The helpers that were started; another process must not be."""
    found: list[Helper] = []

    class Noted(Helper):
        def __init__(self, module: str) -> None:
            super().__init__(module)
            found.append(self)

    monkeypatch.setattr(inspector, "Helper", Noted)
    return found


def alone(*_: Any) -> str:
    raise AssertionError("a process was started for one file")


def test_many_models_are_looked_into_by_a_process_for_each_thread(
    tmp_path: Path, started: list[Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_models(tmp_path, 12, bare=True)
    (tmp_path / name_of(5) / "1" / "model.onnx").write_bytes(b"no model")
    repository = TritonRepository([tmp_path], gpus=[])
    one_by_one = repository.read(name_of(3))
    with pytest.raises(InvalidConfig) as told_alone:
        repository.read(name_of(5))
    assert not started
    monkeypatch.setattr(complete, "_run", alone)
    fresh = TritonRepository([tmp_path], gpus=[])

    def read(number: int) -> Any:
        try:
            return fresh.read(name_of(number))
        except InvalidConfig as error:
            return str(error)

    with fresh.many(), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(read, range(12)))
    assert 1 <= len(started) <= 3
    assert found[3] == one_by_one
    assert found[5] == str(told_alone.value)
    assert [each[0].inputs[0].dims for number, each in enumerate(found) if number != 5] == [(4,)] * 11
    assert not [child for child in psutil.Process().children() if "--many" in " ".join(child.cmdline())]


def test_a_file_that_ends_the_process_is_looked_into_alone(tmp_path: Path, started: list[Helper]) -> None:
    write_models(tmp_path, 3, bare=True)
    repository = TritonRepository([tmp_path], gpus=[])
    with repository.many():
        repository.read(name_of(0))
        os.kill(started[0]._process.pid, signal.SIGKILL)
        (config,) = repository.read(name_of(1))
        assert config.inputs[0].dims == (4,)
        repository.read(name_of(2))
    assert len(started) == 2


def test_a_helper_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = "import time; time.sleep(60)"
    monkeypatch.setattr(inspector, "module_command", lambda python, module: [sys.executable, "-c", silent])
    helper = Helper("any")
    with pytest.raises(inspector.Gone):
        helper.ask(tmp_path, "onnx", 0.2)
    helper.close()
