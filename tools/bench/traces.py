"""How requests arrive: functions (rate per second, count, generator) -> `count` ascending times in seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Trace = Callable[[float, int, np.random.Generator], Times]

#: Mean size of a burst in requests, and seconds over which its requests spread.
BURST, SPREAD = 16, 0.002
#: Length of a simulated day in seconds, about; and how far its rate swings around the mean, as a share of the mean.
DAY, SWING = 60.0, 0.8


def poisson(rate: float, count: int, rng: np.random.Generator) -> Times:
    return np.cumsum(rng.exponential(1 / rate, count))


def bursts(rate: float, count: int, rng: np.random.Generator) -> Times:
    """Groups of BURST requests on average, each spread over SPREAD seconds; `rate` is the mean over all."""
    starts = np.cumsum(rng.exponential(BURST / rate, count))
    members = np.repeat(starts, rng.geometric(1 / BURST, count))[:count]
    return np.sort(members + rng.uniform(0, SPREAD, count))


def diurnal(rate: float, count: int, rng: np.random.Generator, about: float = DAY) -> Times:
    """Poisson with a rate that swings by SWING around its mean; whole days, about so long each, so that `rate` is the mean."""
    length = count / rate
    day = length / max(1, round(length / about))
    kept = np.empty(0)
    start = 0.0
    while len(kept) < count:
        tries = start + np.cumsum(rng.exponential(1 / (rate * (1 + SWING)), count))
        chance = (1 + SWING * np.sin(2 * np.pi * tries / day)) / (1 + SWING)
        kept, start = np.concatenate([kept, tries[rng.random(count) < chance]]), float(tries[-1])
    return kept[:count]


TRACES: dict[str, Trace] = {"poisson": poisson, "bursts": bursts, "diurnal": diurnal}

#: The highest rate over the mean rate, where it lasts longer than a few batches.
PEAKS = {"poisson": 1.0, "bursts": 1.0, "diurnal": 1 + SWING}
