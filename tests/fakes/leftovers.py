"""What a test leaves behind in its process: open files, threads, children."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import psutil


class Inventory:
    """What this process holds at a moment.

    A test asks for what is *new* since then. Whatever was there and has gone belonged to an earlier test of the same process
    that was still ending, so two moments need not be equal.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # of an earlier test that failed, and whose traceback held a socket
            gc.collect()
        self.files: Counter[str] = Counter()  # by what they lead to, which tells sockets and pipes apart
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
                self.files[os.readlink(entry)] += 1  # noqa: PTH115 - "socket:[7]" is no path
        self.threads = set(threading.enumerate())
        self.children = {child.pid for child in psutil.Process().children(recursive=True)}

    def new(self, patience: float = 5.0, kind: str = "") -> list[str]:
        """What the process holds now and did not hold then; what is about to end gets `patience` seconds to do so.

        `kind` is "file", "thread" or "child" where only one counts: an earlier test's thread may open files.
        """
        deadline = time.monotonic() + patience
        while (found := [name for name in self._all_new() if name.startswith(kind)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def _all_new(self) -> list[str]:
        gc.collect()  # what this test lost is its own, so it is warned of it
        now = Inventory()
        files = [f"file {name}" for name in (now.files - self.files).elements()]
        threads = [f"thread {thread.name}" for thread in now.threads - self.threads]
        return [*files, *threads, *(f"child {pid}" for pid in now.children - self.children)]
