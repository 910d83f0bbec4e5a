"""How often Python's garbage collector looks, in processes that answer requests."""

from __future__ import annotations

import gc

#: Container objects that may come before the garbage collector looks at the young ones; Python's 700 are 20 requests.
GARBAGE_OBJECTS = 20_000


def spare_collector() -> None:
    """What is loaded by now stays, and requests leave no cycles: the collector need not look at either again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)
