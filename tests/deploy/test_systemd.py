"""The systemd unit: systemd takes it, and it says what the server that it starts can do."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.server.cli.serve import serve_flags
from jitney.server.main import LAST_SECONDS

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "jitney.service"


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def test_the_flags_exist_and_the_server_has_the_time_that_it_wants() -> None:
    program, verb, *flags = shlex.split(service()["ExecStart"])
    assert (program, verb) == ("/opt/jitney/bin/jitney", "serve")
    settings = serve_flags(flags)
    assert int(service()["TimeoutStopSec"]) >= float(str(settings["exit_timeout_secs"])) + LAST_SECONDS
    assert service()["KillMode"] == "mixed"  # SIGTERM for the server alone: it ends its workers when they have answered


@pytest.mark.parametrize(
    "command", [["verify"], ["security", "--offline=true", "--threshold=25"]], ids=["valid", "hardened"]
)
def test_systemd_takes_it(command: list[str], tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/jitney/bin/jitney", str(Path(sys.executable).parent / "jitney")))
    done = subprocess.run(["systemd-analyze", *command, str(unit)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if command == ["verify"]:
        assert done.stderr == ""
