"""A machine with one GPU, as nvidia-smi would say, whose workers have the late device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.server.process import cores

#: What every Python process of the test imports first; only workers are to see a card.
_SITE = """
import sys
if "jitney.server.worker.main" in sys.orig_argv:
    from jitney.tests.fakes import late_device
    late_device.install()
"""


@contextlib.contextmanager
def machine_with_a_card(folder: Path, monkeypatch: pytest.MonkeyPatch, in_workers: str = "") -> Iterator[None]:
    """Workers that are started meanwhile run the lines `in_workers` first."""
    (folder / "site").mkdir()
    lines = "".join(f"    {line}\n" for line in in_workers.splitlines())
    (folder / "site/sitecustomize.py").write_text(_SITE + lines)
    (folder / "bin").mkdir()
    tool = folder / "bin/nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: a late device (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cores.machine_gpus.cache_clear()
    yield
    cores.machine_gpus.cache_clear()
