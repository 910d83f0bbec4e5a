"""The demo for Triton's users, from start to end, as `make triton-demo` runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_holds_what_it_shows() -> None:
    command = [sys.executable, "-m", "jitney.tools.dev.triton_demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.rstrip().endswith("Everything above held.")
    assert "FAILED" not in done.stdout
