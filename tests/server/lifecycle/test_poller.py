"""Control mode "poll": what changes in the folders is loaded, reloaded and unloaded without being asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Hashable
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig, JitneyError, Unavailable
from jitney.server.lifecycle.poller import Poller
from jitney.server.serving.dataplane import DataPlane
from jitney.tests.fakes.plane import DOUBLING, doubling, first, loaded, rows
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0


class Folders:
    """A repository that is a dictionary, and a control that only notes what it is told."""

    def __init__(self) -> None:
        self.found: dict[str, Hashable] = {}
        self.done: list[str] = []
        self.broken: set[str] = set()
        self.gone = False

    def names(self) -> list[str]:
        if self.gone:
            raise FileNotFoundError("the repository is not mounted")
        return list(self.found)

    def fingerprint(self, name: str) -> Hashable:
        return self.found[name]

    def reload(self, model: str) -> None:
        self.done.append(f"reload {model}")
        if model in self.broken:
            raise InvalidConfig("no good")

    def remove(self, model: str) -> None:
        self.done.append(f"remove {model}")

    def take_done(self) -> list[str]:
        done, self.done = self.done, []
        return done


def test_only_differences_are_acted_on() -> None:
    folders = Folders()
    poller = Poller(folders, folders)
    folders.found = {"a": 1, "b": 1}
    poller.seen["a"] = 1  # loaded at the start
    poller.look()
    assert folders.take_done() == ["reload b"]
    poller.look()
    assert folders.take_done() == []
    folders.found = {"b": 2}
    poller.look()
    assert folders.take_done() == ["remove a", "reload b"]


def test_a_model_that_failed_is_tried_again_when_it_changes() -> None:
    folders = Folders()
    poller = Poller(folders, folders)
    folders.found, folders.broken = {"a": 1, "z": 1}, {"a"}
    poller.look()
    poller.look()
    assert folders.take_done() == ["reload a", "reload z"]
    folders.found["a"] = 2
    poller.look()
    assert folders.take_done() == ["reload a"]


def test_a_repository_that_cannot_be_read_for_a_moment_does_not_end_the_polling() -> None:
    folders = Folders()
    poller = Poller(folders, folders)
    folders.gone = True
    poller.start(0.01)
    try:
        folders.found, folders.gone = {"a": 1}, False
        wait_until(lambda: folders.done == ["reload a"], PATIENCE, "the poller to look again")
    finally:
        poller.close()


def ask(plane: DataPlane, model: str) -> list[float]:
    try:
        return first(plane.infer(model, None, rows(1.0)).result(PATIENCE))
    except JitneyError:
        return []


def test_a_repository_under_poll(tmp_path: Path) -> None:
    models, staging = tmp_path / "models", tmp_path / "staging"
    models.mkdir()
    doubling(models, "there")
    doubling(staging, "comes")
    with loaded(models, mode="poll") as plane:
        control = plane.model_control
        assert ask(plane, "there") == [2.0]
        control.poll(0.05)
        with pytest.raises(Unavailable, match="not allowed if polling is enabled"):
            plane.load("there")
        (staging / "comes").rename(models / "comes")
        wait_until(lambda: ask(plane, "comes") == [2.0], PATIENCE, "the new model")
        new = staging / "model.py"
        new.write_text(DOUBLING.replace("2 * x", "9 * x"))
        os.replace(new, models / "there" / "1" / "model.py")  # noqa: PTH105
        wait_until(lambda: ask(plane, "there") == [9.0], PATIENCE, "the changed model")
        (models / "there" / "config.pbtxt").write_text('backend: "nonsense"')
        shutil.rmtree(models / "comes")
        wait_until(lambda: not plane.model_ready("comes"), PATIENCE, "the removed model to be unloaded")
        assert ask(plane, "there") == [9.0]
        states = {entry.name: (entry.state, entry.reason) for entry in plane.index()}
        assert states == {"comes": ("UNAVAILABLE", "unloaded"), "there": ("READY", "")}
