"""A jitney as another program's child: `python -m jitney.deploy.server_process PARENT FLAGS…` is `jitney serve FLAGS…`, and ends
with the process PARENT.

Linux ends it when the thread that started it ends, so one thread starts it and waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from ..server.process.exits import describe

_STARTED = "Model server started."


class ServerEnded(RuntimeError):
    """The server could not start, or is no more; the text has what it said last."""


class ServerProcess:
    """A server from its start to its end; what it prints goes on to this process' output."""

    def __init__(self, flags: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-m", __name__, str(os.getpid()), *flags]
        self._environment = dict(environment)
        self._lines: deque[str] = deque(maxlen=20)
        self._process: subprocess.Popen[str] | None = None
        self._said_started, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="jitney", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """None until the process exists."""
        return self._process.pid if self._process else None

    def wait_started(self, timeout: float) -> None:
        """Returns when every model has been loaded or refused; raises ServerEnded where that takes over `timeout` seconds."""
        if not self._said_started.wait(timeout):
            self.stop(0)
            raise ServerEnded(f"jitney did not start within {timeout:g} s; it said last:\n{self._last()}")
        self.check()

    def check(self) -> None:
        """Raises ServerEnded where the process has ended."""
        if self._ended.is_set():
            how = describe(self._process.returncode) if self._process else "could not be started"
            raise ServerEnded(f"jitney has ended, {how}; it said last:\n{self._last()}")

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def stop(self, seconds: float) -> None:
        """Has the server answer what it accepted, for `seconds` at most, then ends it."""
        self._signal(signal.SIGTERM)
        if not self._ended.wait(seconds):
            self._signal(signal.SIGKILL)
            self._ended.wait(10)

    # The thread

    def _run(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
            with self._process:
                for line in self._process.stdout or ():
                    self._lines.append(line.rstrip("\n"))
                    sys.stdout.write(line)
                    sys.stdout.flush()
                    if self._lines[-1] == _STARTED:
                        self._said_started.set()
        except OSError as error:
            self._lines.append(str(error))
        finally:
            self._ended.set()
            self._said_started.set()

    def _last(self) -> str:
        return "\n".join(self._lines) or "(nothing)"

    def _signal(self, number: signal.Signals) -> None:
        if self._process and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def free_ports(host: str, count: int) -> list[int]:
    """Ports of `host` that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


def main() -> int:
    from ..server.cli.main import main as jitney
    from ..server.worker.main import die_with

    die_with(int(sys.argv[1]))
    return jitney(["serve", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
