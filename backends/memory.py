"""Running out of memory, in the words of each library, and what a batch that did not fit teaches.

Few libraries have a class for it. The texts stand here and nowhere else:

    torch          OutOfMemoryError (the device's caching allocator); AcceleratorError with CUDA's code 2 (page-locked memory,
                   a graph, a context); RuntimeError of the allocator on the CPU
    cuBLAS, cuDNN  RuntimeErrors that name a status …_ALLOC_FAILED: their workspaces
    ONNX Runtime   the arena's "Failed to allocate memory for requested buffer" and "Available memory of … is smaller than
                   requested bytes"; CUDA failure 2; std::bad_alloc
"""

from __future__ import annotations

import ctypes
import gc
import logging
import re
from collections.abc import Iterator, Sequence

from .telling import text_of

#: CUDA's cudaErrorMemoryAllocation.
_CUDA_OUT_OF_MEMORY = 2
_WORDS = re.compile(
    r"(?:CUDA|HIP)\b.*\bout of memory"
    r"|\b(?:CUBLAS|CUDNN|CUFFT|CUSOLVER|CUSPARSE|CURAND|HIPBLAS|MIOPEN)_(?:STATUS_)?(?:INTERNAL_ERROR_DEVICE_)?ALLOC(?:ATION)?_FAILED"
    r"|DefaultCPUAllocator: (?:can't allocate|not enough) memory"
    r"|Failed to allocate memory for requested buffer"
    r"|Available memory of \d+ is smaller than requested bytes"
    r"|(?:CUDA|HIP) failure 2\b"
    r"|cudaHostAlloc\b.*fail|\bstd::bad_alloc\b",
    re.IGNORECASE | re.DOTALL,
)
#: Batches that are run in parts before a larger part is tried again: another process may have given its memory back.
TRY_AGAIN = 64
_log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, says that memory ran out."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if _says_so(found):
            return True
        found = found.__cause__
    return False


def _says_so(error: BaseException) -> bool:
    """torch's class is known by its name: torch need not be imported here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY:
        return True
    return isinstance(error, Exception) and _WORDS.search(text_of(error)) is not None


def trim() -> None:
    """Gives memory back to the system that the process has freed and keeps.

    Workers are told to keep what a batch needed (the server's `own_process.MALLOC`); for weights that have gone to a card, a
    copy in the host's memory is nothing that a batch will need.
    """
    gc.collect()
    trimmed = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trimmed is not None:
        trimmed(0)


class FittingRows:
    """How many rows a batch may have, once one has not fitted into memory.

    `rows` 0 = any number. A part that did not fit halves it; after `TRY_AGAIN` batches that were run in parts it is doubled,
    which holds if the next batch fits.
    """

    def __init__(self, model: str) -> None:
        self._model, self.rows = model, 0
        self._parted = 0

    def too_many(self, rows: int) -> None:
        """A batch of `rows` rows did not fit."""
        fitting = max(rows // 2, 1)
        if self.rows and self.rows <= fitting:
            return
        self.rows, self._parted = fitting, 0
        _log.warning(
            "model '%s': a batch of %d rows does not fit into memory; batches are run in parts of at most %d rows",
            self._model, rows, fitting,
        )  # fmt: skip

    def parts(self, rows: Sequence[int]) -> Iterator[slice]:
        """How to part requests with so many rows each; one that is too wide on its own is a part of its own."""
        if not self.rows or sum(rows) <= self.rows:
            yield slice(0, len(rows))
            return
        self._parted += 1
        if self._parted >= TRY_AGAIN:
            self.rows, self._parted = self.rows * 2, 0
        start = held = 0
        for at, count in enumerate(rows):
            if held and held + count > self.rows:
                yield slice(start, at)
                start, held = at, 0
            held += count
        yield slice(start, len(rows))
