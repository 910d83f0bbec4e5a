"""`OwnProcess`: the operating system's process of one worker that shares it with no other; how such a process is started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from typing import Protocol

from ...core.errors import JitneyError
from ...core.model_config import ModelConfig
from ...core.request import Instance
from ..process import exits
from ..process.environment import SECRETS, module_command, own_python
from .logs import LogPump

#: glibc's malloc: a batch's activations come from memory that the process has already, instead of fresh pages from the system
#: for every batch, which took a fifth of a ResNet's time. What a worker once needed it keeps, up to 4 GiB.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Life(Protocol):
    """What a worker lives in, as `WorkerProcess` needs it: a process of its own, or a place in a shared one. Any thread."""

    @property
    def pid(self) -> int: ...

    @property
    def sharers(self) -> int:
        """How many workers live in the process."""

    @property
    def code(self) -> int | None:
        """How it ended, as `Popen.returncode` has it; None while it lasts."""

    @property
    def crashed(self) -> bool:
        """Whether it ended by itself, because of what this worker did."""

    @property
    def innocent(self) -> bool:
        """Whether it ended because of what others did that share the process."""

    def blame(self) -> str:
        """Who caused its end, as the end of a sentence, where that was not this worker; else ""."""

    def begin(self) -> None:
        """Has what it prints logged. RuntimeError where the system has no thread left."""

    def left(self, code: int) -> None:
        """The worker said that it ends with this code."""

    def kill(self, cause: JitneyError | None) -> None:
        """Ends it; returns at once, and may be called again and after the end."""

    def wait(self, timeout: float) -> bool:
        """Waits for its end; false where it has not come after `timeout` seconds."""

    def last_words(self) -> str:
        """The last line that it wrote to stderr, "" where there is none."""

    def bury(self, timeout: float | None = None) -> None:
        """After its end: waits until everything that it printed is logged; without a timeout it is not asked any more."""

    def abandon(self) -> None:
        """Kills it where nobody has heard of it yet, waits for that and lets everything go."""


def command(config: ModelConfig, instance: Instance, fds: tuple[int, ...]) -> list[str]:
    """The worker's command line, in the model's own Python where it has one. InvalidConfig where that cannot be used."""
    module = f"{(__package__ or '').rpartition('.')[0]}.worker.main"
    named = config.parameters if config.backend == "python" else {}
    start = module_command(own_python(config.name, named, config.directory), module)
    if config.handler is not None and config.handler.python:
        start[0] = config.handler.python
    options = [f"--{name}={fd}" for name, fd in zip(("fd", "arena-fd", "reply-fd"), fds, strict=True)]
    return [*start, "--name", instance.name, *options, f"--parent={os.getpid()}"]


def environment(config: ModelConfig, instance: Instance) -> dict[str, str]:
    """The server's environment, the worker's share of threads (libraries read it once, at import), the model's own.

    Secrets of the server and what the configuration withholds stay out; `MALLOC` gives way to what the server's says.
    """
    threads = dict.fromkeys(_THREAD_VARIABLES, str(instance.threads))
    withheld = re.compile(config.withheld_environment)
    inherited = {k: v for k, v in os.environ.items() if k not in SECRETS and not withheld.fullmatch(k)}
    return {**MALLOC, **inherited, **threads, "PYTHONUNBUFFERED": "1", **config.environment}


class LoggedProcess:
    """A process that inherits `fds`, and whose stdout and stderr are logged.

    The thread that makes it must outlive it: the kernel kills the process with that thread. OSError where it cannot be started;
    nothing is left of it then.
    """

    def __init__(self, arguments: Sequence[str], env: dict[str, str], fds: tuple[int, ...], logger: str, name: str) -> None:
        self._process = subprocess.Popen(
            arguments,
            env=env,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        try:
            pipes = _take_pipes(self._process)
        except BaseException:
            self._end()
            raise
        self._logs = LogPump(self.pid, logger, name, *pipes)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        return self._process.returncode

    def begin(self) -> None:
        """Begins to log. RuntimeError where the system has no thread left."""
        self._logs.start()

    def end(self) -> None:
        """Kills it; returns at once."""
        self._process.kill()  # no-op once it was waited for

    def wait(self, timeout: float) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        return self._logs.tail[-1] if self._logs.tail else ""

    def bury(self, timeout: float | None = None) -> None:
        self._logs.join(timeout)

    def abandon(self) -> None:
        self._end()
        self._logs.abandon()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


class OwnProcess(LoggedProcess):
    """See `Life`."""

    sharers = 1
    innocent = False

    def __init__(self, config: ModelConfig, instance: Instance, fds: tuple[int, ...]) -> None:
        super().__init__(command(config, instance, fds), environment(config, instance), fds, config.name, instance.name)

    @property
    def crashed(self) -> bool:
        """A SIGKILL is somebody else's: the server's, an operator's, or the kernel's for want of memory."""
        return is_crash(self.code)

    def blame(self) -> str:
        return ""

    def left(self, code: int) -> None:
        """The process' own end says it."""

    def kill(self, cause: JitneyError | None) -> None:
        self.end()


def is_crash(code: int | None) -> bool:
    """Whether a process that ended with this code did so by itself."""
    return code not in (None, exits.STOPPED, -signal.SIGKILL, -signal.SIGTERM)


def _take_pipes(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The read ends of stdout and stderr, no longer owned by `process`."""
    if process.stdout is None or process.stderr is None:
        raise ValueError("the process was started without pipes")
    with process.stdout as stdout, process.stderr as stderr:
        out = os.dup(stdout.fileno())
        try:
            return out, os.dup(stderr.fileno())
        except OSError:
            os.close(out)
            raise
