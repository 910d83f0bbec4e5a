"""`IoContext`: what the threads of one process share to read and send for one another."""

from __future__ import annotations

from dataclasses import dataclass, field

from .coalesce import Coalescer
from .reactor import Reactors
from .shared_threads import SharedThreads


@dataclass(frozen=True)
class IoContext:
    """Made once where a process starts, and handed to whatever reads, queues or sends in it."""

    reactors: Reactors = field(default_factory=Reactors)
    coalescer: Coalescer = field(default_factory=Coalescer)
    threads: SharedThreads = field(default_factory=SharedThreads)
