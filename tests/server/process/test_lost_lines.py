"""Log lines that cannot be written: one sentence when it begins, one when it is over, and the server goes on."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.server.process import lost_lines
from jitney.tests.fakes.raw_http import ask
from jitney.tests.fakes.torchserve_server import COMMAND, environment, properties
from jitney.tools.bench.served import taken, wait_until

FULL = Path("/dev/full")
LOG_CONFIG = (
    '{"handlers": {"file": {"class": "logging.FileHandler", "filename": "logs/own.log"}},'
    ' "loggers": {"jitney.access": {"handlers": ["file"], "level": "INFO"}}}'
)


class Disk(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler whose stream is full, or not."""

    baseFilename = "/var/log/x.log"
    full = False

    def __init__(self) -> None:
        super().__init__(self)
        self.written: list[str] = []

    def write(self, text: str) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.written.append(text.strip())

    def flush(self) -> None: ...


@pytest.fixture
def disk() -> Disk:
    handler = Disk()
    lost_lines.watch([handler])
    lost_lines.watch([handler])  # which changes nothing
    return handler


def test_a_full_disk_is_said_once_and_what_was_lost_when_there_is_room_again(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    line = logging.makeLogRecord({"msg": "a line"})
    for disk.full in (False, True, True, True, False, False, True):
        disk.handle(line)
    assert disk.written == ["a line"] * 3
    assert capsys.readouterr().err.splitlines() == [
        "jitney: the log file '/var/log/x.log' cannot be written: No space left on device; lines are lost until it can",
        "jitney: the log file '/var/log/x.log' can be written again; 3 lines were lost",
        "jitney: the log file '/var/log/x.log' cannot be written: No space left on device; lines are lost until it can",
    ]


def test_a_mistake_in_a_call_still_shows_its_traceback(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    disk.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full, which is a full disk")
@pytest.mark.parametrize("own", [False, True])
def test_a_server_serves_on_a_full_disk(tmp_path: Path, own: bool) -> None:
    for name in ("ts_log.log", "access_log.log", "model_log.log", "own.log"):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / name).symlink_to(FULL)
    text, addresses = properties()
    (tmp_path / "store").mkdir()
    (tmp_path / "config.properties").write_text(text)
    (tmp_path / "log.json").write_text(LOG_CONFIG)
    flags = ["--log-config", "log.json"] if own else []
    with (tmp_path / "output").open("w") as output, FULL.open("w") as full:
        process = subprocess.Popen(
            [*COMMAND, "--start", "--foreground", "--ncs", "--model-store", "store", *flags],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=full,
            stderr=output,
        )
        try:
            wait_until(lambda: taken(addresses["inference"].port), 60, "the server")
            for _ in range(20):
                assert ask(addresses["inference"], "GET", "/ping").status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "output").read_text()
    assert "Traceback" not in said and "Logging error" not in said
    file = "own.log" if own else "access_log.log"
    assert said.count(f"{file}' cannot be written: No space left on device") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_standard_streams_ends_as_it_would(closed: str) -> None:
    code = "import sys; from jitney.server.process import logs; logs.configure(None); logs.close(); sys.exit(7)"
    command = ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    assert subprocess.run(command, timeout=60, check=False).returncode == 7


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full, which is a full disk")
def test_a_command_that_cannot_print_ends_as_it_would(tmp_path: Path) -> None:
    code = "import sys; from jitney.server import announcements; from jitney.server.process import logs; "
    code += "logs.configure(None); announcements.say('x'); logs.close(); sys.exit(7)"
    with FULL.open("w") as full:
        assert subprocess.run([sys.executable, "-c", code], stdout=full, timeout=60, check=False).returncode == 7
