"""Core time: this process's own work is not others'."""

from __future__ import annotations

import time

from jitney.tools.bench.usage import Usage, usage


def test_shares_of_the_time_since() -> None:
    busy, others = Usage(30.0, 15.0, 6.0).since(Usage(20.0, 7.0, 3.0))
    assert (round(busy, 9), round(others, 9)) == (0.8, 0.5)
    assert Usage(30.0, 15.0, 16.0).since(Usage(20.0, 7.0, 3.0))[1] == 0.0


def test_own_work_is_ours() -> None:
    before, end = usage([]), time.process_time() + 0.2
    while time.process_time() < end:
        pass
    after = usage([2**22 + 1])  # no such process
    assert after.ours - before.ours >= 0.15
    assert after.total >= after.busy > before.busy
