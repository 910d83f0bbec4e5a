"""Running the package in another environment's Python: it needs numpy there, is lent msgspec, and sees nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import jitney
from jitney.server.process import launch

LAUNCHER = str(launch.__file__)
MSGSPEC = str(msgspec.__file__)
PROBE = """
import importlib.util, sys
import jitney.core.request, msgspec
print(sys.argv, jitney.__file__, msgspec.__file__, importlib.util.find_spec("orjson"), __name__)
"""


def launched(tmp_path: Path, *packages: Path, options: tuple[str, ...] = ("-S",)) -> subprocess.CompletedProcess[str]:
    """`probe x y` in a Python that has these packages only (-S), or all of the tests' own."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "probe.py").write_text(PROBE)
    for package in packages:
        (site / package.name).symlink_to(package)
    return subprocess.run(
        [sys.executable, *options, "-P", LAUNCHER, MSGSPEC, "probe", "x", "y"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_module_runs_where_only_numpy_is_and_sees_nothing_of_the_server_s_environment(tmp_path: Path) -> None:
    numpy = Path(str(np.__file__)).parent
    libraries = numpy.parent / "numpy.libs"
    ran = launched(tmp_path, numpy, *([libraries] if libraries.exists() else []))
    assert (ran.returncode, ran.stderr) == (0, "")
    expected = [
        str([str(tmp_path / "site" / "probe.py"), "x", "y"]),
        str(Path(str(jitney.__file__)).resolve()),
        MSGSPEC,
        "None",
        "__main__",
    ]
    assert ran.stdout.strip() == " ".join(expected)


def test_an_environment_that_has_everything_keeps_its_own(tmp_path: Path) -> None:
    ran = launched(tmp_path, options=())
    assert (ran.returncode, MSGSPEC in ran.stdout) == (0, True), ran.stderr


def test_without_numpy_it_says_what_to_install(tmp_path: Path) -> None:
    ran = launched(tmp_path)
    assert (ran.returncode, "has no numpy: install it there" in ran.stderr) == (1, True)


def test_an_old_python_and_a_msgspec_of_another_version_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "msgspec" else find(name))
    monkeypatch.setitem(sys.modules, "msgspec", msgspec)  # put back afterwards
    broken = tmp_path / "msgspec" / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise ImportError('made for another Python')\n")
    assert "needs msgspec, install it there: made for another Python" in launch.prepare(str(broken))
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert "has Python 3.10, at least 3.11 is needed" in launch.prepare(MSGSPEC)
