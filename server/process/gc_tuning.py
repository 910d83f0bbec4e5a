"""What processes that answer requests do with memory that they need no longer: Python's collector, and the C library's malloc."""

from __future__ import annotations

import contextlib
import ctypes
import gc

#: Container objects that may come before the garbage collector looks at the young ones; Python's 700 are 20 requests.
GARBAGE_OBJECTS = 20_000


#: glibc's `mallopt` (malloc.h): number of the option -> value. An allocation from the first size on is a mapping of its own,
#: which the system gets back when it is freed. By itself glibc raises that to the largest that was ever freed, up to 32 MiB:
#: then each of its arenas, eight for each core, keeps the place of a large answer for ever.
MALLOC = {-3: 4 << 20, -1: 8 << 20, -8: 8}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (kept free in each arena), M_ARENA_MAX


def return_large_memory() -> None:
    """Has large answers and bodies leave nothing behind. To be called before there are threads; glibc only."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.items():
            mallopt(option, value)


def freeze_heap() -> None:
    """What is loaded by now stays, and requests leave no cycles: the collector need not look at either again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)
