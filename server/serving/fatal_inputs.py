"""`FatalInputs`: inputs that end a model's worker again and again, so that one client cannot keep a model from everybody.

Only a request that was alone in its worker is to blame for the crash; a SIGKILL blames nobody. After `MOST` crashes the same
input is refused for `REFUSED_S` seconds. Nothing is hashed before there has been a crash.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ...core.errors import InvalidRequest
from ...core.request import Request

#: Crashes that an input may cause.
MOST = 3
#: Seconds after its last crash for which an input is remembered.
REFUSED_S = 600.0
#: Inputs that are remembered for one model; the oldest is forgotten first.
KEPT = 256


class FatalInputs:
    """Of one model version. Thread-safe. `clock` in seconds. `any`: whether there has been such a crash, lately."""

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model, self._clock = model, clock
        self.any = False
        self._lock = threading.Lock()
        self._crashes: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # how often, and when for the last time
        self._sizes: set[int] = set()  # of theirs: others need not be hashed

    def crashed(self, request: Request) -> None:
        """A worker crashed over this request alone."""
        found = digest(request)
        with self._lock:
            count, _ = self._crashes.pop(found, (0, 0.0))
            self._crashes[found] = count + 1, self._clock()
            self._sizes.add(size(request))
            self.any = True
            if len(self._crashes) > KEPT:
                self._crashes.popitem(last=False)

    def check(self, request: Request) -> None:
        """Raises InvalidRequest for an input that has ended workers too often."""
        with self._lock:
            while self._crashes and next(iter(self._crashes.values()))[1] + REFUSED_S <= self._clock():
                self._crashes.popitem(last=False)
            self.any = bool(self._crashes)
            if not self.any:
                self._sizes.clear()
        if size(request) not in self._sizes:
            return
        count, last = self._crashes.get(digest(request), (0, 0.0))
        if count >= MOST:
            raise InvalidRequest(
                f"this input has ended the worker of model '{self._model}' {count} times and is refused for another "
                f"{max(1, round(last + REFUSED_S - self._clock()))} s; loading the model anew lifts that"
            )


def size(request: Request) -> int:
    """The bytes of its data."""
    buffers = [*(tensor.data for tensor in request.tensors), *(part.data for part in request.parts)]
    return sum(memoryview(data).nbytes for data in buffers)


def digest(request: Request) -> bytes:
    """What the model gets of a request, without its id and headers."""
    found = hashlib.sha256(repr(sorted(request.parameters.items())).encode())
    for tensor in request.tensors:
        found.update(f"\0{tensor.name}\0{tensor.datatype}\0{tensor.shape}\0".encode())
        found.update(memoryview(tensor.data))
    for part in request.parts:
        found.update(f"\0{part.name}\0{part.content_type}\0".encode())
        found.update(memoryview(part.data))
    return found.digest()
