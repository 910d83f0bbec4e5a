import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.server.repository.torchserve.workspace import Workspace
from jitney.tests.fakes.leftovers import Inventory


def test_folders_come_and_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert list(tmp_path.iterdir()) == []
    one, two = workspace.make(), workspace.make()
    (one / "file").touch()
    workspace.remove(one)
    workspace.remove(one)
    assert not one.exists() and two.is_dir()
    workspace.close()
    workspace.close()
    assert list(tmp_path.iterdir()) == []
    three = workspace.make()
    assert three.is_dir()
    workspace.close()


def test_only_its_own_folders_are_removed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.make()
    for foreign in (tmp_path, folder.parent, folder / "x", tmp_path / "x"):
        with pytest.raises(ValueError, match="not a folder of this workspace"):
            workspace.remove(foreign)
    workspace.close()


def test_a_root_that_somebody_removed_is_replaced(tmp_path: Path) -> None:
    """As systems do that clear their temporary folder of what is some days old."""
    before, workspace = Inventory(), Workspace(tmp_path)
    lost = workspace.make()
    shutil.rmtree(lost.parent)
    folder = workspace.make()
    assert folder.is_dir() and folder.parent != lost.parent
    workspace.remove(lost)
    assert folder.is_dir()
    workspace.close()
    assert list(tmp_path.iterdir()) == [] and before.new(0) == []


def test_closing_leaves_no_descriptor(tmp_path: Path) -> None:
    before = Inventory()
    workspace = Workspace(tmp_path)
    workspace.make()
    workspace.close()
    assert before.new(0) == []


def test_a_killed_servers_folders_are_removed_and_a_living_ones_kept(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from jitney.server.repository.torchserve.workspace import Workspace;"
        "w = Workspace(pathlib.Path(sys.argv[1])); print(w.make().parent, flush=True); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    left = tmp_path / done.stdout.strip()
    assert left.is_dir()
    living = Workspace(tmp_path)
    kept = living.make()
    assert not left.exists()
    other = Workspace(tmp_path)
    other.make()
    assert kept.is_dir()
    foreign = tmp_path / "jitney-models-without-lock"
    foreign.mkdir()
    third = Workspace(tmp_path)
    third.make()
    assert foreign.is_dir()
    for workspace in (living, other, third):
        workspace.close()
