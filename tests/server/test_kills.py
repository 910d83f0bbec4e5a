"""Workers are killed at random under load: every request is answered, rightly or with the reason, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from jitney.core.errors import NoWorkers, WorkerDied
from jitney.server.serving.dataplane import DataPlane
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.plane import doubling, first, loaded, rows

REQUESTS = 10_000
CLIENTS = 16
KILLS = 12
PATIENCE = 30.0


class Tally:
    """What the clients saw, by kind; anything unforeseen is an error of the test."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.unforeseen: list[BaseException] = []
        self.lock = threading.Lock()

    def client(self, plane: DataPlane, numbers: range) -> None:
        for number in numbers:
            try:
                answer = first(plane.infer("m", None, rows(float(number))).result(PATIENCE))
                kind = "right" if answer == [2.0 * number] else "wrong"
            except (WorkerDied, NoWorkers) as error:
                kind = type(error).__name__
            except BaseException as error:  # noqa: BLE001 - reported by the test
                self.unforeseen.append(error)
                return
            with self.lock:
                self.seen[kind] += 1


def kill_now_and_then(plane: DataPlane, stop: threading.Event) -> int:
    """Kills a random worker every 50 to 250 ms, some of them in quick succession; how many it killed."""
    dice, killed = random.Random(7), 0
    while killed < KILLS and not stop.wait(dice.uniform(0.05, 0.25)):
        running = [worker.pid for worker in plane.registry.deployment("m").workers() if worker.state in ("READY", "BUSY")]
        if not running:
            continue
        with contextlib.suppress(ProcessLookupError):  # it has ended, and the server is about to notice
            os.kill(dice.choice(running), signal.SIGKILL)
            killed += 1
    return killed


def test_ten_thousand_requests_while_workers_are_killed(tmp_path: Path) -> None:
    doubling(tmp_path, "m", "dynamic_batching { }", instances=4, seconds=0.002)
    with loaded(tmp_path):
        pass  # whatever is made once in a process is there before the figures are taken
    before = Inventory()
    tally, stop, killed = Tally(), threading.Event(), []
    with loaded(tmp_path) as plane:
        parts = [range(start, REQUESTS, CLIENTS) for start in range(CLIENTS)]
        clients = [threading.Thread(target=tally.client, args=(plane, part)) for part in parts]
        killer = threading.Thread(target=lambda: killed.append(kill_now_and_then(plane, stop)))
        for thread in (*clients, killer):
            thread.start()
        for thread in clients:
            thread.join()
        stop.set()
        killer.join()
        arena = plane.registry.deployment("m").arena
        assert arena is not None and arena.used == 0
        assert plane.registry.deployment("m").queued() == 0
    assert not tally.unforeseen
    assert tally.seen["wrong"] == 0
    assert sum(tally.seen.values()) == REQUESTS
    assert killed[0] == KILLS
    assert tally.seen["right"] > REQUESTS * 0.5
    assert before.new() == []


def test_a_killed_worker_fails_what_it_held_at_once_and_is_back_within_two_seconds(tmp_path: Path) -> None:
    doubling(tmp_path, "m", seconds=5)
    with loaded(tmp_path) as plane:
        call = plane.infer("m", None, rows(1.0))
        deployment = plane.registry.deployment("m")
        (worker,) = deployment.workers()
        os.kill(worker.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match="SIGKILL"):
            call.result(PATIENCE)
        assert time.monotonic() - began < 0.5
        while not deployment.ready:
            assert time.monotonic() - began < 2.0, "the worker is not back"
            time.sleep(0.01)
        assert deployment.workers()[0].pid != worker.pid
