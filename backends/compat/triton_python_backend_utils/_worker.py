"""The worker that this process is, as far as pb_utils needs it; set once by the Python backend."""

from __future__ import annotations

from dataclasses import dataclass

from jitney.backends.base import Host

from ._errors import TritonModelException


@dataclass
class Worker:
    """What the module-level functions of pb_utils refer to."""

    host: Host
    model: str
    version: str
    directory: str


_current: list[Worker] = []


def connect(worker: Worker) -> None:
    _current[:] = [worker]


def is_connected() -> bool:
    return bool(_current)


def current() -> Worker:
    """The connected worker; raises where there is none (auto_complete_config runs without a server)."""
    if not _current:
        raise TritonModelException("this function of pb_utils needs a running server; there is none during auto-completion")
    return _current[0]
