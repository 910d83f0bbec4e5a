"""Readers of GPUs' figures that end with the test that made them: their threads start a program again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from jitney.backends.gpus import GpuReader


@contextlib.contextmanager
def ending_readers() -> Iterator[None]:
    """Every GpuReader that is made meanwhile has no thread afterwards."""
    made: list[GpuReader] = []
    make = GpuReader.__init__

    def noted(reader: GpuReader, *arguments: Any, **named: Any) -> None:
        make(reader, *arguments, **named)
        made.append(reader)

    with mock.patch.object(GpuReader, "__init__", noted):
        yield
    for reader in made:
        reader._interest = 0.0
        if (thread := reader._thread) is not None:
            thread.join(30)
            assert not thread.is_alive()
