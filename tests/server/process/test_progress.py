"""What is under way, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time

import pytest

from jitney.server.process.progress import Progress, Task
from jitney.tools.bench.served import wait_until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def last_line(stream: io.StringIO) -> str:
    return stream.getvalue().rpartition("\x1b[K")[2]


@pytest.fixture(autouse=True)
def some_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_a_task_says_how_far_it_is() -> None:
    task = Task("fetching m.mar", 1 << 20, " MiB")
    assert str(task) == "fetching m.mar · 0 s"
    task.update(3 << 20)
    assert str(task) == "fetching m.mar: 3 MiB · 0 s"
    task.update(3 << 20, 4 << 20)
    assert str(task) == "fetching m.mar: 3 of 4 MiB (75 %) · 0 s"


def test_tasks_share_the_last_line_and_leave_none() -> None:
    stream = Terminal()
    progress = Progress(stream)
    with progress.task("one"):
        wait_until(lambda: last_line(stream) == "one · 0 s", 10, "the line")
        with progress.task("two") as two:
            two.update(1, 2)
            wait_until(lambda: last_line(stream) == "one · 0 s; two: 1 of 2 (50 %) · 0 s", 10, "both")
            with progress.above():
                stream.write("a line\n")
            assert "\x1b[Ka line\n\r\x1b[Kone" in stream.getvalue()
    assert last_line(stream) == ""
    wait_until(lambda: progress._thread is None, 10, "the end of the thread")


def test_elsewhere_nothing_is_drawn() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.task("one"), progress.above():
        stream.write("a line\n")
    assert stream.getvalue() == "a line\n"
    assert progress._thread is None
    stream.close()
    assert not progress.is_shown


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not Progress(Terminal()).is_shown


def test_on_a_real_terminal() -> None:
    code = (
        "import time; from jitney.server.process.progress import say, shown\n"
        "with shown.task('working', name=' steps') as task:\n"
        "    task.update(1, 4); time.sleep(0.3); say('half of it')\n"
        "print('done')\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=child, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    seen, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            seen += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait(10) == 0
    assert b"working: 1 of 4 steps (25 %)" in seen
    assert b"\r\x1b[Khalf of it\r\n" in seen
    assert seen.endswith(b"\r\x1b[Kdone\r\n")
