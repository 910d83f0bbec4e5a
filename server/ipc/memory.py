"""`Region`: one piece of anonymous shared memory, a memfd that a parent creates and its workers inherit.

It has no name in /dev/shm, so nothing can leak when processes die: the kernel frees it with its last descriptor and
mapping. It is sparse: only pages that were written occupy memory, so a generous size costs address space alone.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np

from ...core.pages import give_back
from ...core.tensor import Buffer

#: From this size on numpy copies, which releases the GIL; below it its overhead is larger than the copy.
_UNLOCKED_COPY = 64 << 10
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def flat(data: Buffer) -> memoryview:
    """`data` as a one-dimensional view of bytes; a copy only where it is not contiguous. TypeError if it is no buffer."""
    view = memoryview(data)
    if view.ndim == 1 and view.format == "B" and view.c_contiguous:
        return view
    if view.nbytes == 0:
        return memoryview(b"")
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return view.cast("B")


def copy(target: memoryview, source: memoryview) -> None:
    """Copies bytes between views of the same length, without the GIL where they are large."""
    if len(source) < _UNLOCKED_COPY:
        target[:] = source
    else:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


class Region:
    """`nbytes` of shared memory behind the descriptor `fd`, mapped readable and writable."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.fd, self.nbytes = fd, nbytes
        self._map = mmap.mmap(fd, nbytes)
        self._bytes = memoryview(self._map)

    @classmethod
    def create(cls, name: str, nbytes: int) -> Region:
        """A new region, sealed so that no process can cut it short under another's feet (that would be a SIGBUS)."""
        if nbytes <= 0:
            raise ValueError(f"size of shared memory must be positive, got {nbytes}")
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, nbytes)
        except BaseException:
            os.close(fd)
            raise

    def view(self, offset: int, nbytes: int) -> memoryview:
        """A writable view; ValueError where it would reach outside."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} are outside of the {self.nbytes} bytes of shared memory")
        return self._bytes[offset : offset + nbytes]

    def write(self, offset: int, data: Buffer) -> int:
        """Copies `data` to `offset`; returns the number of bytes."""
        source = flat(data)
        copy(self.view(offset, len(source)), source)
        return len(source)

    def read(self, offset: int, nbytes: int, into: memoryview | None = None) -> Buffer:
        """A writable copy: in `into`, of `nbytes`, or private."""
        source = self.view(offset, nbytes)
        if into is not None:
            copy(into, source)
            return into
        if nbytes < _UNLOCKED_COPY:
            return bytearray(source)
        target = np.empty(nbytes, np.uint8)
        copy(target.data, source)
        return target.data

    def discard(self, nbytes: int) -> None:
        """Gives the pages of the first `nbytes` back to the system; they read as zeros afterwards. ValueError once closed."""
        give_back(self._map, min(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE, self.nbytes), mmap.MADV_REMOVE)

    def close_fd(self) -> None:
        """Closes the descriptor; the mapping stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Closes the descriptor and the mapping. Views still in use keep the memory until they are gone."""
        self.close_fd()
        try:
            self._bytes.release()
            self._map.close()
        except BufferError:  # a view is left: the mapping ends with the last of them
            pass
