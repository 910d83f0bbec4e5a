"""What `jitney bench` has measured at one load, and what loads are shares of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import open_loop
from .batch_time import Line
from .simulate import Result
from .target import Counters


@dataclass(frozen=True)
class Sample:
    """One load in one round. `theory` and `declared` are simulated over the arrivals that were sent; see `model_bench`.

    gained    what the server's counters gained, its warm-up included
    declared  the policy that the model declares, where that is not zero delay
    cores     shares of this machine's cores that were busy, and busy with others' work (the server's too, if not ours)
    """

    rate: float
    measured: open_loop.Result
    gained: Counters
    line: Line
    theory: Result
    declared: Result | None = None
    bound: float | None = None
    cores: tuple[float, float] = (0.0, 0.0)


Samples = Mapping[float, Sequence[Sample]]


@dataclass(frozen=True)
class Reach:
    """Requests per second: what the workers could do with full batches, what was answered where `clients` asked without a pause,
    and what loads are shares of."""

    model: float
    server: float
    clients: int
    full: float

    @property
    def by_model(self) -> bool:
        """Whether it is the model's batches that loads are shares of."""
        return self.full == self.model

    def __str__(self) -> str:
        of = "the former" if self.by_model else "the latter" if self.full == self.server else f"{self.full:,.0f}/s"
        return (
            f"Full batches would make {self.model:,.0f} requests/s, and {self.clients} clients that never pause were answered "
            f"{self.server:,.0f}/s: loads are shares of {of}."
        )
