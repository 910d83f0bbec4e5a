"""`Board`: what each member of a shared worker process is doing, for the server to read once the process has ended.

A piece of shared memory that the process writes and the server reads. Each place has 16 bytes:

    0 .. 7   the thread's number (`threading.get_ident`)
    8 .. 15  1 while the thread loads its model or runs a batch, else 0
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable

from .memory import Region

#: Members that one process may have.
PLACES = 4096

_ENTRY = struct.Struct("<QQ")


class Board:
    """Places are numbered from 0. Writing a place is its member's own affair; reading is anybody's."""

    def __init__(self, region: Region) -> None:
        self.region = region

    @classmethod
    def create(cls) -> Board:
        return cls(Region.create("jitney-board", PLACES * _ENTRY.size))

    @classmethod
    def of(cls, fd: int) -> Board:
        """The one that another process made."""
        return cls(Region(fd, PLACES * _ENTRY.size))

    def note(self, place: int, works: bool) -> None:
        """The calling thread is the place's, and works or waits from now on."""
        _ENTRY.pack_into(self._entry(place), 0, threading.get_ident(), works)

    def clear(self, place: int) -> None:
        """The place is nobody's."""
        _ENTRY.pack_into(self._entry(place), 0, 0, 0)

    def working(self, places: Iterable[int]) -> set[int]:
        """Those of the places that work, or worked when the process ended."""
        return {place for place in places if _ENTRY.unpack_from(self._entry(place))[1]}

    def of_thread(self, number: int, places: Iterable[int]) -> set[int]:
        """The place whose thread has this number, if it is one of these."""
        return {place for place in places if _ENTRY.unpack_from(self._entry(place))[0] == number}

    def close(self) -> None:
        self.region.close()

    def _entry(self, place: int) -> memoryview:
        return self.region.view(place * _ENTRY.size, _ENTRY.size)
