"""Memory goes back to the system while Python runs: `mmap.madvise`, and freeing, would have all other threads wait meanwhile.

That takes some 0.3 s for a gigabyte.
"""

from __future__ import annotations

import ctypes
import mmap
import os

_C = ctypes.CDLL(None, use_errno=True)


def give_back(memory: bytearray | mmap.mmap, nbytes: int, advice: int) -> None:
    """Gives the whole pages among the first `nbytes` of `memory` back; it may be used on, and has zeros there.

    `advice` is mmap.MADV_DONTNEED for private memory, MADV_REMOVE for a file's. Raises OSError where the system refuses, and
    ValueError for a mapping that is closed.
    """
    held = (ctypes.c_char * nbytes).from_buffer(memory)  # which keeps the memory
    begin, page = ctypes.addressof(held), mmap.PAGESIZE
    first = -(-begin // page) * page
    whole = max(0, begin + nbytes - first) // page * page
    if whole and _C.madvise(ctypes.c_void_p(first), ctypes.c_size_t(whole), advice):
        error = ctypes.get_errno()
        raise OSError(error, f"{whole} bytes of memory cannot be given back: {os.strerror(error)}")
