"""What a process holds for its clients, counted in bytes and bounded: bodies as they come in, and answers until they are sent.

A client that does not read its answer, or sends its request slowly, has the server keep data for as long as it likes; so all of
them together are allowed so much, and what would be more is refused (`HoldsTooMuch`), as the one thing that always works. Data up
to `COUNTED` bytes is not counted, so that small requests go on when large ones cannot: the number of connections bounds them.

Each process has one `Holdings`, `process`. Data is counted while the memory is there, whatever refers to it:

    memory(n)   memory for an answer, copied from where its worker (or the scheduler) left it
    Body        a request's body
    Unsent      the part of an answer that the client's socket did not take yet
    Pile        parts of a stream that wait to be sent
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from collections import deque

import numpy as np

from .errors import HoldsTooMuch
from .pages import give_back

#: Bytes of one piece of data from which on it is counted.
COUNTED = 64 << 10
DEFAULT_LIMIT = 1 << 30
#: Bytes that a part of a stream costs besides its data (830 with one small tensor in a front end, 540 elsewhere), and unread
#: bytes that no stream is ended for.
PART, SPARED = 1024, 1 << 20
#: Bytes of a body from which on giving its memory back takes so much time (10 ms) that a thread of its own does it.
LARGE = 32 << 20


class Holdings:
    """How much is held. Thread-safe. `give` may be called at any point, by a finalizer in the middle of `take` too.

    One piece is always taken where nothing else is held, however large it is.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._taken = 0
        self._given: deque[int] = deque()  # not subtracted yet: giving back takes no lock

    @property
    def held(self) -> int:
        """Bytes held now."""
        with self._lock:
            return self._settled()

    def _settled(self) -> int:
        while self._given:
            self._taken -= self._given.popleft()
        return self._taken

    def has_room(self, nbytes: int) -> bool:
        """Whether `take` would succeed now."""
        held = self.held
        return not held or held + nbytes <= self.limit

    def take(self, nbytes: int) -> bool:
        """Counts so many bytes more, unless that would be too many."""
        with self._lock:
            held = self._settled()
            if held and held + nbytes > self.limit:
                return False
            self._taken += nbytes
        return True

    def add(self, nbytes: int) -> None:
        """Counts bytes that are there already, also where they are too many: what follows is refused then."""
        with self._lock:
            self._taken += nbytes

    def give(self, nbytes: int) -> None:
        """They are gone."""
        self._given.append(nbytes)

    def refusal(self) -> HoldsTooMuch:
        return HoldsTooMuch(
            f"the server holds {self.held} bytes of requests and unread answers, and may hold {self.limit} (max_held_bytes); "
            "try again later"
        )


#: Of this process.
process = Holdings()


def limit(nbytes: int) -> None:
    """Sets what this process may hold. To be called once, before it serves."""
    process.limit = nbytes


def memory(nbytes: int) -> memoryview:
    """Writable memory that is counted until the last view of it is gone. HoldsTooMuch where there is no room for it."""
    if not process.take(nbytes):
        raise process.refusal()
    try:
        array = np.empty(nbytes, np.uint8)
    except MemoryError:
        process.give(nbytes)
        raise no_memory(nbytes) from None
    weakref.finalize(array, process.give, nbytes).atexit = False
    return array.data


def no_memory(nbytes: int) -> HoldsTooMuch:
    """What is said where the system gives this process no more, whatever it may hold."""
    return HoldsTooMuch(f"the system has no memory for {nbytes} bytes more; try again later")


class Body(bytearray):
    """A request's body. `counted`: how many of its bytes are."""

    counted = 0

    def grown(self) -> bool:
        """To be called after more was added; false where that is too much."""
        more = len(self) - self.counted
        if len(self) <= COUNTED:
            return True
        if not process.take(more):
            return False
        self.counted += more
        return True

    def __del__(self) -> None:
        if self.counted:
            process.give(self.counted)
        if len(self) >= LARGE:
            try:
                threading.Thread(target=_let_pages_go, args=(self,), name="jitney-free", daemon=True).start()
            except RuntimeError:  # the system has no thread left, or the interpreter ends
                _let_pages_go(self)


def _let_pages_go(data: bytearray) -> None:
    """Gives the pages of memory that is freed next back to the system.

    That takes 0.2 s for 800 MB. Freeing would have all other threads wait meanwhile, and a thread that has others to serve may be
    who comes to it: so it is done before, in a thread of its own, while Python runs.
    """
    with contextlib.suppress(OSError):  # then freeing does it
        give_back(data, len(data), mmap.MADV_DONTNEED)


class Pile:
    """Parts of one stream that came faster than its client reads. Each is small, or counted already, and they may be many."""

    __slots__ = ("_put", "_taken")

    def __init__(self) -> None:
        self._put = self._taken = 0  # each written by one thread

    @property
    def nbytes(self) -> int:
        return self._put - self._taken

    def put(self, nbytes: int) -> None:
        """One more waits. Any thread, one at a time."""
        if nbytes <= COUNTED:
            process.add(nbytes + PART)
            self._put += nbytes + PART

    def take(self, nbytes: int) -> None:
        """One was taken away. The reading thread."""
        if nbytes <= COUNTED:
            process.give(nbytes + PART)
            self._taken += nbytes + PART

    @property
    def is_too_much(self) -> bool:
        """Whether the process holds as much as it may, and this stream some of it."""
        return self.nbytes > SPARED and not process.has_room(1)

    def __del__(self) -> None:
        if self.nbytes:
            process.give(self.nbytes)


class Unsent:
    """The rest of an answer, as one of a waitress channel's buffers: sent from where it lies, without a copy.

    `counts`: whether its bytes are not counted yet, as those of `memory` are.
    """

    def __init__(self, data: memoryview, *, counts: bool = True) -> None:
        self._rest, self._nbytes = data, len(data) if counts else 0
        process.add(self._nbytes)

    def __len__(self) -> int:
        return len(self._rest)

    def __bool__(self) -> bool:
        return True

    def get(self, numbytes: int = -1, skip: bool = False) -> memoryview:
        """The next bytes; with `skip` they are not offered again."""
        found = self._rest if numbytes < 0 else self._rest[:numbytes]
        if skip:
            self.skip(len(found))
        return found

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """So many bytes are sent."""
        self._rest = self._rest[numbytes:]

    def close(self) -> None:
        """Lets go of the answer. May be called again."""
        nbytes, self._nbytes, self._rest = self._nbytes, 0, memoryview(b"")
        if nbytes:
            process.give(nbytes)

    def __del__(self) -> None:
        self.close()
