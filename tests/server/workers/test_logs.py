"""`LogPump`: what processes print, read by one thread for all of them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from jitney.server.workers import logs
from jitney.server.workers.logs import MAX_LINE, LogPump


def printing(code: str, name: str = "w") -> tuple[subprocess.Popen[bytes], LogPump]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    pipes = os.dup(process.stdout.fileno()), os.dup(process.stderr.fileno())
    process.stdout.close()
    process.stderr.close()
    return process, LogPump(process.pid, "m", name, *pipes)


def finish(process: subprocess.Popen[bytes], pump: LogPump) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)
    pump.join(20)


def log_threads() -> int:
    return sum(thread.name == "worker-logs" for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_thread_reads_for_all_and_ends_with_the_last(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    until(lambda: log_threads() == 0)
    code = "import sys; print('begun', flush=True); sys.stdin.read(); print('over', file=sys.stderr)"
    all_of_them = [printing(code, f"w{number}") for number in range(8)]
    for _, pump in all_of_them:
        pump.start()
    until(lambda: caplog.text.count("begun") == 8)
    assert log_threads() == 1
    for process, pump in all_of_them:
        finish(process, pump)
        assert list(pump.tail) == ["over"]
    until(lambda: log_threads() == 0)
    found = {(record.levelname, record.name, record.getMessage()) for record in caplog.records}
    assert ("INFO", "jitney.model.m", "w3: begun") in found
    assert ("WARNING", "jitney.model.m", "w7: over") in found
    again, pump = printing("print('once more')")
    pump.start()
    finish(again, pump)
    assert "w: once more" in caplog.text


def test_lines_without_an_end_and_lines_that_are_too_long_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process, pump = printing(f"import sys; sys.stdout.write('x' * {3 * MAX_LINE} + '\\nlast, without an end')")
    pump.start()
    finish(process, pump)
    texts = [record.getMessage().removeprefix("w: ") for record in caplog.records if record.name == "jitney.model.m"]
    assert "".join(texts[:-1]) == "x" * 3 * MAX_LINE
    assert max(map(len, texts)) <= 2 * MAX_LINE
    assert texts[-1] == "last, without an end"


def test_a_process_that_lives_on_in_a_child_does_not_keep_the_pump() -> None:
    """The child keeps the pipes open; nothing more is waited for than the process itself."""
    process, pump = printing("import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'])")
    pump.start()
    assert process.wait(20) == 0
    began = time.monotonic()
    pump.join(20)
    assert time.monotonic() - began < 10
    assert process.stdin is not None
    process.stdin.close()


def test_a_child_that_goes_on_printing_does_not_keep_the_pump_either(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes more as soon as something is read. What the process itself has printed is logged."""
    caplog.set_level(logging.INFO)
    process, pump = printing("print('the last word' + '\\n' * 3000, flush=True)")
    process.wait(20)
    held, emit = os.open(f"/proc/self/fd/{min(pump._open)}", os.O_WRONLY), LogPump._emit  # as such a child has it

    def answered(pump: LogPump, fd: int, line: bytes) -> None:
        emit(pump, fd, line)
        if len(caplog.records) < 10_000:
            os.write(held, b"more\n")

    monkeypatch.setattr(LogPump, "_emit", answered)
    pump.start()
    pump.join(20)
    os.close(held)
    finish(process, pump)
    assert "w: the last word" in caplog.text and len(caplog.records) < 10_000


def test_both_ends_closed_end_the_pump_while_the_process_runs() -> None:
    process, pump = printing("import os, sys; os.close(1); os.close(2); sys.stdin.read()")
    pump.start()
    pump.join(20)
    assert process.poll() is None
    finish(process, pump)


def test_a_chatterbox_does_not_keep_others_waiting(caplog: pytest.LogCaptureFixture) -> None:
    loud, loud_pump = printing("while True: print('y' * 5000)", "loud")
    quiet, quiet_pump = printing("print('heard')", "quiet")
    logging.getLogger("jitney.model.m").setLevel(logging.INFO)
    loud_pump.start()
    quiet_pump.start()
    until(lambda: "quiet: heard" in [record.getMessage() for record in list(caplog.records)])
    loud.kill()
    finish(loud, loud_pump)
    finish(quiet, quiet_pump)


def test_where_no_thread_can_be_had_the_pipes_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: log_threads() == 0)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    process, pump = printing("pass")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pump.start()
    pump.abandon()
    finish(process, pump)
    assert logs._LOOP._epoll is None
