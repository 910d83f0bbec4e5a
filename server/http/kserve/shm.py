"""System shared memory: regions of /dev/shm that clients on the same host register, and tensors in them.

Regions are read and written with `pread` and `pwrite`, never mapped: a client that truncates its file then gets an error, where
a mapping would end the server with SIGBUS. A key is a bare name in /dev/shm, opened without following links; the server's own
tensors live in unnamed memory, which no key can name.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....core.errors import InvalidRequest, Unsupported
from ....core.tensor import Buffer
from .errors import PlaceTooSmall, RegionExists, RegionNotFound, RegionUnreadable

_ROOT = "/dev/shm/"
_KEY = re.compile(r"/?[^/\0]{1,255}")
#: Triton refuses its own prefix; so do we, for hosts that run a Triton too.
_RESERVED = "triton_python_backend_shm_region_"
#: Largest tensor; what Linux reads at a time, and a bound for what a region's declared size can make the server allocate.
_MAX_BYTES = 0x7FFFF000


@dataclass(slots=True, eq=False)
class ClientRegion:
    """One registered region. Its file stays open while it is registered or a request uses it; then it closes itself."""

    name: str
    key: str
    offset: int
    byte_size: int
    fd: int

    def __del__(self) -> None:
        os.close(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, counted from the region's start; the range must have been checked."""
        data = os.pread(self.fd, size, self.offset + offset)
        if len(data) != size:
            raise InvalidRequest(f"shared memory region '{self.name}' has become shorter than it was registered")
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """Writes `data` at `offset`, counted from the region's start; the range must have been checked."""
        view, at = memoryview(data).cast("B"), self.offset + offset
        if os.fstat(self.fd).st_size < at + len(view):  # writing on would make the client's file longer
            raise InvalidRequest(f"shared memory region '{self.name}' has become shorter than it was registered")
        while view:
            written = os.pwrite(self.fd, view, at)
            view, at = view[written:], at + written

    def status(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a region a tensor is, or shall be written."""

    region: ClientRegion
    offset: int
    size: int

    def read(self) -> bytes:
        return self.region.read(self.offset, self.size)

    def write(self, name: str, data: Buffer) -> None:
        """Writes output `name`; raises InvalidRequest where the place is too small."""
        size = memoryview(data).nbytes
        if size > self.size:
            raise PlaceTooSmall(
                f"shared memory size specified with the request for output '{name}' ({self.size} bytes) should be at least "
                f"{size} bytes to hold the results"
            )
        self.region.write(self.offset, data)


class ClientRegions:
    """The regions that clients have registered. Thread-safe. `allowed` false: none may be, and every use is refused."""

    def __init__(self, allowed: bool = True) -> None:
        self._allowed = allowed
        self._regions: dict[str, ClientRegion] = {}
        self._lock = threading.Lock()
        self.on_change: Callable[[], None] = lambda: None  # called before the change is answered

    def refuse_unless_allowed(self) -> None:
        if not self._allowed:
            raise Unsupported("clients may use no shared memory here: the server was started with --allow-client-shm=false")

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens `key` and makes `byte_size` bytes from `offset` known as `name`; raises InvalidRequest."""
        self.refuse_unless_allowed()
        region = ClientRegion(name, key, offset, byte_size, _open(key))
        if os.fstat(region.fd).st_size < offset + byte_size or byte_size == 0:
            raise InvalidRequest(f"Invalid shared memory region: '{key}'")
        with self._lock:
            if name in self._regions:
                raise RegionExists(f"shared memory region '{name}' already in manager")
            self._regions[name] = region
            self.on_change()

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """What is registered, or the one region `name`; raises RegionNotFound."""
        self.refuse_unless_allowed()
        with self._lock:
            if name is None:
                return [self._regions[key].status() for key in sorted(self._regions)]
            if name not in self._regions:
                raise RegionNotFound(f"Unable to find system shared memory region: '{name}'")
            return [self._regions[name].status()]

    def unregister(self, name: str | None = None) -> None:
        """Forgets one region or all; an unknown name is no error (Triton). Requests in flight keep what they use."""
        self.refuse_unless_allowed()
        with self._lock:
            if name is None:
                self._regions.clear()
            else:
                self._regions.pop(name, None)
            self.on_change()

    def find(self, name: str) -> ClientRegion | None:
        """The region of this name; None where there is none."""
        with self._lock:
            return self._regions.get(name)

    def place(self, name: str, offset: int, size: int) -> Place:
        """A checked part of a region; raises RegionNotFound, or InvalidRequest where it passes the region's end."""
        self.refuse_unless_allowed()
        region = self.find(name)
        if region is None:
            raise RegionNotFound(f"Unable to find shared memory region: '{name}'")
        if offset + size > region.byte_size:
            raise InvalidRequest(f"Invalid offset + byte size for shared memory region: '{name}'")
        if size > _MAX_BYTES:
            raise InvalidRequest(
                f"a tensor in shared memory region '{name}' has {size} bytes, at most {_MAX_BYTES} are taken"
            )
        return Place(region, offset, size)


def _open(key: str) -> int:
    name = key.removeprefix("/")
    if not _KEY.fullmatch(key) or name in (".", "..") or name.startswith(_RESERVED):
        raise InvalidRequest(f"Invalid shared memory key: '{key}'; expected the name of a file in {_ROOT}")
    try:
        fd = os.open(_ROOT + name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):  # ValueError: a name that cannot be encoded
        raise RegionUnreadable(f"Unable to open shared memory region: '{key}'") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RegionUnreadable(f"Unable to open shared memory region: '{key}'")
    return fd
