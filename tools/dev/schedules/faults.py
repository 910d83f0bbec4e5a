"""`Faults`: what goes wrong in a schedule, how often, until they end."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Faults:
    """Shares of batches, loads and starts that go wrong; all by the dice of the run. `batch_ns`, `load_ns`: usual durations.

    overlaps  the model answers after `execute` has returned
    steady    how long a batch takes is told by its requests, so that the server foresees its end
    """

    dice: random.Random
    batch_ns: int = 5_000_000
    load_ns: int = 50_000_000
    overlaps: bool = False
    steady: bool = False
    crash: float = 0.0
    hang: float = 0.0
    fail: float = 0.0
    partly: float = 0.0
    slow: float = 0.0
    load_refused: float = 0.0
    load_crash: float = 0.0
    load_hang: float = 0.0
    not_started: float = 0.0

    def end(self) -> None:
        """From now on nothing goes wrong any more."""
        self.crash = self.hang = self.fail = self.slow = 0.0
        self.load_refused = self.load_crash = self.load_hang = self.not_started = 0.0

    @property
    def any(self) -> bool:
        return bool(
            self.crash
            or self.hang
            or self.fail
            or self.load_refused
            or self.load_crash
            or self.load_hang
            or self.not_started
        )

    def cannot_start(self) -> bool:
        return self._happens(self.not_started)

    def loading(self) -> tuple[str, int]:
        """What a process does that is to load the model (load, refuse, crash, hang), and how long it takes for that."""
        ns = self.dice.randrange(self.load_ns // 4, self.load_ns)
        if self._happens(self.load_hang):
            return "hang", 0
        if self._happens(self.load_crash):
            return "crash", ns
        return ("refuse" if self._happens(self.load_refused) else "load"), ns

    def executing(self, requests: int) -> tuple[str, int]:
        """What becomes of a batch (answer, open, partly, fail, crash, hang), and how long that takes."""
        usual = (
            (8 + requests) * self.batch_ns // 16 if self.steady else self.dice.randrange(self.batch_ns // 4, self.batch_ns)
        )
        ns = usual * (10 if self._happens(self.slow) else 1)
        if self._happens(self.hang):
            return "hang", 0
        if self._happens(self.crash):
            return "crash", ns
        if self._happens(self.fail):
            return "fail", ns
        if self.overlaps:
            return "open", ns
        return ("partly" if self._happens(self.partly) else "answer"), ns

    def dies_between(self) -> bool:
        """Whether a worker crashes after the first of its answers."""
        return self._happens(2 * self.crash)

    def is_deaf(self) -> bool:
        """Whether a worker whose batch takes long does not read what it is sent meanwhile."""
        return self._happens(0.2)

    def unloading(self) -> int:
        return self.dice.randrange(1_000_000)

    def _happens(self, share: float) -> bool:
        return share > 0 and self.dice.random() < share
