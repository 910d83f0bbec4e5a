"""What a fault is, and the list of all: each is a function that injures the server and returns when the injury is over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from .ledger import Ledger
from .site import Site


class Skipped(Exception):
    """A fault cannot be made here; the text says why."""


@dataclass
class Scene:
    """What a fault works with. `short`: smaller amounts, for the run in CI."""

    site: Site
    ledger: Ledger
    dice: random.Random
    short: bool

    def onset(self) -> None:
        """From now on the server has to recover."""
        self.ledger.windows[-1].onset = time.monotonic()

    def rest(self, seconds: float) -> None:
        """Lets the injury last, half as long in the short run."""
        time.sleep(seconds / 2 if self.short else seconds)


@dataclass(frozen=True)
class Fault:
    """cuts     it ends the process that has the clients' connections, so some of them end without an answer
    short    it belongs to the run in CI"""

    name: str
    injure: Callable[[Scene], None]
    cuts: bool = False
    short: bool = True


FAULTS: list[Fault] = []


def fault(
    name: str, *, cuts: bool = False, short: bool = True
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Enters the decorated function into the list."""

    def enter(injure: Callable[[Scene], None]) -> Callable[[Scene], None]:
        FAULTS.append(Fault(name, injure, cuts, short))
        return injure

    return enter
