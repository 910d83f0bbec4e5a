"""What a test leaves behind is named; what an earlier one still held is not blamed on it."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jitney.tests.fakes.leftovers import Inventory


def test_what_is_left_is_named(tmp_path: Path) -> None:
    before, release = Inventory(), threading.Event()
    thread = threading.Thread(target=release.wait, name="left-behind")
    thread.start()
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with (tmp_path / "open").open("w"):
        found = before.new(0)
    assert "thread left-behind" in found
    assert f"child {child.pid}" in found
    assert f"file {tmp_path / 'open'}" in found
    assert sum("pipe:" in name for name in found) >= 2
    release.set()
    thread.join()
    os.close(reading), os.close(writing)
    child.communicate(b"\n")
    assert before.new(0) == []


def test_another_of_the_same_kind_is_seen(tmp_path: Path) -> None:
    with (tmp_path / "one").open("w"):
        before = Inventory()
        with (tmp_path / "one").open("w"):
            assert before.new(0) == [f"file {tmp_path / 'one'}"]


def test_what_ends_meanwhile_is_nothing_left(tmp_path: Path) -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    with (tmp_path / "open").open("w"):
        before = Inventory()
    release.set()
    thread.join()
    assert before.new(0) == []


def test_what_is_about_to_end_gets_the_time_that_the_caller_gives() -> None:
    before, release = Inventory(), threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    threading.Timer(0.2, release.set).start()
    assert before.new(5.0) == []


class Ring:
    """Holds what it leads to until garbage is collected."""

    def __init__(self, held: object) -> None:
        self.held, self.itself = held, self


def test_nobody_is_warned_of_what_an_earlier_test_lost(recwarn: pytest.WarningsRecorder) -> None:
    gc.collect()
    Ring(socket.socket())
    Inventory()
    assert not recwarn.list


def test_whoever_loses_something_is_warned() -> None:
    before = Inventory()
    Ring(socket.socket())
    with pytest.warns(ResourceWarning, match="unclosed"):
        before.new(0)
