"""`Inspector`: processes that look into many model files, one after the other.

A process that imports a framework costs a fifth of a second, a look into a small file a few milliseconds. While many models are
read, each reading thread has a process that stays:

    python -m jitney.backends.inspect --many        {"file": …, "kind": …} a line in, {"found": …} or {"error": …} a line out
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...process.environment import module_command


class Gone(Exception):
    """The process ended, was silent for too long, or said what is no answer."""


class Helper:
    """One such process. One thread at a time."""

    def __init__(self, module: str) -> None:
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        self._process = subprocess.Popen(
            [*module_command(None, module), "--many"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, path: Path, kind: str, timeout: float) -> dict[str, Any]:
        """Its answer for one file; Gone where it has none."""
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            stdin, stdout = self._process.stdin, self._process.stdout
            if stdin is None or stdout is None:
                raise Gone
            stdin.write(json.dumps({"file": str(path), "kind": kind}).encode() + b"\n")
            stdin.flush()
            found = json.loads(stdout.readline())
        except (OSError, ValueError) as error:
            raise Gone from error
        finally:
            timer.cancel()
        if not isinstance(found, dict):
            raise Gone
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Inspector:
    """Helpers while there is reason to keep them. Threads: any.

    module  the module of the process
    """

    def __init__(self, module: str) -> None:
        self._module, self._lock = module, threading.Lock()
        self._users = 0
        self._idle: list[Helper] = []

    @contextlib.contextmanager
    def many(self) -> Iterator[None]:
        """Around the reading of many models: helpers stay until its end."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                idle, self._idle = ([], self._idle) if self._users else (self._idle, [])
            for helper in idle:
                helper.close()

    def ask(self, path: Path, kind: str, timeout: float) -> dict[str, Any] | None:
        """{"found": …} or {"error": …}; None where no helper is to be kept, or where the one that looked has not survived it."""
        with self._lock:
            if not self._users:
                return None
            helper = self._idle.pop() if self._idle else None
        helper = helper or Helper(self._module)
        try:
            found = helper.ask(path, kind, timeout)
        except Gone:
            helper.close()
            return None
        with self._lock:
            kept = self._users > 0
            if kept:
                self._idle.append(helper)
        if not kept:
            helper.close()
        return found
