"""Threads share a core where that is asked for, and only those that ask."""

import os
import threading
from collections.abc import Iterator

import pytest

from jitney.server import affinity


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    yield
    affinity.configure("none")


def cores_of_a_thread(shares: bool) -> set[int]:
    found: list[set[int]] = []

    def run() -> None:
        if shares:
            affinity.share_core()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_no_thread_moves_by_default() -> None:
    affinity.configure("none")
    assert cores_of_a_thread(shares=True) == os.sched_getaffinity(0)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing to choose")
def test_threads_that_share_a_core_have_one_and_the_others_all() -> None:
    everything = os.sched_getaffinity(0)
    affinity.configure("auto")
    assert cores_of_a_thread(shares=True) == {max(everything)}
    assert cores_of_a_thread(shares=False) == everything
    assert os.sched_getaffinity(0) == everything
