"""A server where the system has few threads left: it says so and ends, or serves with those that there are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jitney.core.errors import TooFewThreads
from jitney.server.process import threads
from jitney.tests.fakes.plane import doubling
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import serving

#: Runs the `jitney` command on a system that gives this process as many threads as the first argument says.
LIMITED = """
import sys, threading
left, start = int(sys.argv.pop(1)), threading._start_new_thread
def limited(*arguments):
    global left
    left -= 1
    if left < 0:
        raise RuntimeError("can't start new thread")
    return start(*arguments)
threading._start_new_thread = limited
from jitney.server.cli.main import main
sys.exit(main())
"""


def test_the_sentence_names_the_purpose_and_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    thread = threading.Thread()
    monkeypatch.setattr(thread, "start", refuse)
    with pytest.raises(TooFewThreads, match=r"no thread left for loading models: this process has .*--pids-limit"):
        threads.start(thread, "loading models")


def test_other_errors_are_not_taken_for_it() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    with pytest.raises(RuntimeError, match="once"):
        threads.start(thread, "nothing")
    thread.join()


@pytest.mark.parametrize("already", [None, "3"])
def test_only_the_server_itself_calculates_with_one_thread(monkeypatch: pytest.MonkeyPatch, already: str | None) -> None:
    monkeypatch.delenv(threads.BLAS_THREADS, raising=False)
    if already:
        monkeypatch.setenv(threads.BLAS_THREADS, already)
    with threads.one_for_blas():
        assert os.environ[threads.BLAS_THREADS] == (already or "1")
    assert os.environ.get(threads.BLAS_THREADS) == already


@pytest.mark.parametrize("left", range(8))
def test_a_start_without_enough_threads_ends_with_a_sentence(tmp_path: Path, left: int) -> None:
    doubling(tmp_path / "models", "double")
    ports = {f"--{name}-port": str(free_port()) for name in ("http", "management", "metrics")}
    flags = [text for pair in ports.items() for text in pair]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(left), "serve", "--model-repository", str(tmp_path / "models"), *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Model server started." not in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("jitney: the system has no thread left for ") and "--pids-limit" in last
    assert "Traceback" not in done.stderr


def test_a_quiet_server_has_few_threads(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "double")
    with serving(tmp_path / "models") as server:
        assert server.get_json("/v2/models/double/config")["name"] == "double"
        tasks = len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))
    assert tasks <= 16
