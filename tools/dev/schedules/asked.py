"""`Asked`: one request of a schedule, and what became of it."""

from __future__ import annotations

from ....core.call import Call
from ....core.errors import JitneyError
from ....core.request import Response
from .plan import Ask


class Asked:
    """One request and what became of it. `sequence`: its client, and which of its sequences this is."""

    def __init__(self, number: int, ask: Ask, data: bytes, sequence: tuple[int, int], start: bool) -> None:
        self.number, self.ask, self.data, self.sequence, self.start = number, ask, data, sequence, start
        self.call: Call | None = None
        self.refused: JitneyError | None = None
        self.answers: list[Response | JitneyError] = []
        self.over = False
        self.begun = 0  # how often a worker began to execute it
        self.in_dead_worker = False  # whether a worker that had it has ended
        self.spared = False  # whether the last of these was at another batch, and had not begun with it

    @property
    def error(self) -> JitneyError | None:
        last = self.answers[-1] if self.answers else None
        return last if isinstance(last, JitneyError) else self.refused

    def __repr__(self) -> str:
        told = "waits" if not self.over else f"{self.error!r}" if self.error else "right"
        return f"request {self.number} ({self.ask.rows} rows, lane {self.ask.lane}): {told}"
