"""Which replica gets a request, in simulated time: the rules that balancers have, by name.

random        any
round_robin   one after the other
two_choices   of two at random, the one with fewer rows
least_rows    the fewest rows, waiting or running; among equals, by chance (what `deploy.ray` and most proxies do)
batch_aware   where its batch would end first, with half of t0 added where it would be the first of its batch: it joins one that
              is about to leave rather than start another. It knows when workers are free, which no proxy does: a bound
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Replica(Protocol):
    """What `batch_aware` sees."""

    def would_end(self, now: float) -> float: ...
    @property
    def waiting(self) -> int: ...
    @property
    def t0(self) -> float: ...


class Router:
    """One balancer. It knows which replicas are up, and how many rows it has at each: not what other balancers have there."""

    def __init__(self, rule: str, replicas: Sequence[Replica], rng: np.random.Generator) -> None:
        if rule not in RULES:
            raise ValueError(f"a rule is one of {', '.join(RULES)}, got '{rule}'")
        self._rule, self.replicas, self.rng = RULES[rule], replicas, rng
        self.rows: Rows = np.zeros(len(replicas), dtype=np.int64)
        self.up: Rows = np.arange(len(replicas), dtype=np.int64)
        self.turn = int(rng.integers(1 << 30))

    def choose(self, now: float) -> int:
        """The replica for a request; at least one has to be up."""
        return self._rule(self, now)

    def set_up(self, up: Sequence[int]) -> None:
        self.up = np.array(up, dtype=np.int64)


def _random(router: Router, now: float) -> int:
    return int(router.up[int(router.rng.random() * len(router.up))])


def _round_robin(router: Router, now: float) -> int:
    router.turn += 1
    return int(router.up[router.turn % len(router.up)])


def _two_choices(router: Router, now: float) -> int:
    first, second = _random(router, now), _random(router, now)
    return first if router.rows[first] <= router.rows[second] else second


def _least_rows(router: Router, now: float) -> int:
    rows = router.rows[router.up]
    fewest = router.up[rows == rows.min()]
    return int(fewest[int(router.rng.random() * len(fewest))])


def _batch_aware(router: Router, now: float) -> int:
    def cost(number: int) -> float:
        replica = router.replicas[number]
        return replica.would_end(now) + (0.0 if replica.waiting else replica.t0 / 2)

    router.turn += 1
    start = router.turn % len(router.up)  # so that equals take turns
    return int(min((*router.up[start:], *router.up[:start]), key=cost))


RULES: dict[str, Callable[[Router, float], int]] = {
    "random": _random,
    "round_robin": _round_robin,
    "two_choices": _two_choices,
    "least_rows": _least_rows,
    "batch_aware": _batch_aware,
}
