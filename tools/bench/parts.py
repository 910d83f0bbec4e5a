"""Into what a measured mean falls, and what theory says of the same. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .samples import Sample


def parts(sample: Sample) -> tuple[float, float, float, float, float]:
    """Milliseconds of the mean request: sent late, HTTP, queue, between queue and worker, in the worker."""
    gained, measured = sample.gained, sample.measured
    count = 1e6 * max(1, gained.requests)
    way = (gained.total - gained.queue - gained.compute) / count
    http = measured.mean - measured.lag - gained.total / count
    return measured.lag, http, gained.queue / count, way, gained.compute / count


def ideal_parts(sample: Sample) -> tuple[float, float]:
    """The same of theory: queue, in the worker."""
    sizes = sample.theory.sizes
    worker = sum(rows * count * sample.line(rows) for rows, count in sizes.items())
    worker *= 1e3 / sum(rows * count for rows, count in sizes.items())
    return 1e3 * sample.theory.mean - worker, worker
