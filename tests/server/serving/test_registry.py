"""What readers see of the registry while models come and go."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from jitney.core.errors import ModelNotReady
from jitney.server.lifecycle.snapshot_writer import registered
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.deployment import ModelState
from jitney.server.serving.registry import Registry


@pytest.mark.parametrize(
    "look",
    [
        Registry.deployments,
        Registry.index,
        registered,
        lambda registry: DataPlane(registry).healthy(),
        lambda registry: DataPlane(registry).models(),
    ],
    ids=["deployments", "index", "registered", "healthy", "models"],
)
def test_who_lists_the_models_never_meets_one_that_has_just_gone(
    look: Callable[[Registry], object],
) -> None:
    registry, done = Registry(), threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            registry.note("model", "1", ModelState.UNAVAILABLE, "a reason")
            registry.forget("model", "1")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    changing = threading.Thread(target=come_and_go)
    changing.start()
    try:
        for _ in range(2000):
            look(registry)
    finally:
        done.set()
        changing.join()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("version", [None, "1"])
def test_a_model_that_is_being_loaded_is_said_to_be_and_one_that_could_not_says_why(version: str | None) -> None:
    registry = Registry()
    registry.note("model", "1", ModelState.LOADING, "")
    with pytest.raises(ModelNotReady, match="it is being loaded"):
        registry.deployment("model", version)
    registry.note("model", "1", ModelState.UNAVAILABLE, "weights.bin is damaged")
    with pytest.raises(ModelNotReady, match=r"weights\.bin is damaged"):
        registry.deployment("model", version)
