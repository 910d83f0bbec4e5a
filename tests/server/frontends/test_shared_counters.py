"""The page of numbers that all processes of a server share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from jitney.core.errors import QueueFull
from jitney.server.frontends.child.remote_services import SharedPlaces
from jitney.server.frontends.shared_counters import GONE, NBYTES, SharedCounters
from jitney.server.ipc.memory import Region

FRONTS = 256


@pytest.fixture
def pages() -> Iterator[tuple[SharedCounters, SharedCounters]]:
    """The same page as two processes see it, for as many front ends as there may be."""
    ours = SharedCounters.create(FRONTS)
    theirs = SharedCounters(Region(os.dup(ours.region.fd), NBYTES), FRONTS)
    yield ours, theirs
    theirs.close()
    ours.close()


def test_a_change_is_seen_by_all(pages: tuple[SharedCounters, SharedCounters]) -> None:
    ours, theirs = pages
    for what in ("models", "keys", "regions"):
        before = theirs.epoch(what)
        ours.changed(what)
        assert theirs.epoch(what) == ours.epoch(what) == before + 1
    assert [theirs.epoch("models"), theirs.epoch("keys"), theirs.epoch("regions")] == [1, 1, 1]


def test_no_number_is_anothers(pages: tuple[SharedCounters, SharedCounters]) -> None:
    ours, theirs = pages
    for process in range(FRONTS + 1):
        ours.set_waiting(process, 1)
    for front in range(FRONTS):
        ours.set_connections(front, 5)
    assert theirs.waiting() == FRONTS + 1
    assert theirs.epoch("models") == theirs.epoch("keys") == theirs.epoch("regions") == 0
    assert not any(theirs.has_more(front) for front in range(FRONTS))
    ours.set_connections(3, 4)
    assert theirs.has_more(0) and not theirs.has_more(3)
    ours.set_connections(3, GONE)
    assert not theirs.has_more(0)


def test_places_are_those_of_all_processes(pages: tuple[SharedCounters, SharedCounters]) -> None:
    ours, theirs = pages
    here, there = SharedPlaces(3, ours, 0), SharedPlaces(3, theirs, 1)
    for places in (here, there, there):
        places.enter()
    for places in (here, there):
        with pytest.raises(QueueFull, match="3 requests already"):
            places.enter()
    there.leave()
    here.enter()
    theirs.set_waiting(1, 0)  # as the scheduler does where a front end has died
    here.enter()
    assert ours.waiting() == 3


def test_after_the_end_changes_are_nothing() -> None:
    page = SharedCounters.create(2)
    page.close()
    page.changed("models")
    page.set_waiting(0, 1)
    page.set_connections(0, 1)
