"""Triton's families that belong to no model: the machine's memory and processors, its GPUs, the response cache.

Names, units and kinds are Triton's (core's metrics.cc and the cache's). Its energy counter is there where NVML tells it, which
nvidia-smi does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import psutil

from ...backends.gpus import GpuFigures
from .text import Family

_MIB = 1 << 20

_GPU: tuple[tuple[str, str, Callable[[GpuFigures], float]], ...] = (
    ("nv_gpu_utilization", "GPU utilization rate [0.0 - 1.0)", lambda gpu: gpu.utilization / 100),
    ("nv_gpu_memory_total_bytes", "GPU total memory, in bytes", lambda gpu: gpu.memory_total * _MIB),
    ("nv_gpu_memory_used_bytes", "GPU used memory, in bytes", lambda gpu: gpu.memory_used * _MIB),
    ("nv_gpu_power_usage", "GPU power usage in watts", lambda gpu: gpu.power_usage),
    ("nv_gpu_power_limit", "GPU power management limit in watts", lambda gpu: gpu.power_limit),
)


class CacheFigures(Protocol):
    """What is read of the response cache (`serving.response_cache.ResponseCache`): bytes, counts, nanoseconds."""

    limit: int
    hits: int
    misses: int
    evictions: int
    lookup_ns: int
    insertion_ns: int

    @property
    def used(self) -> int: ...

    def __len__(self) -> int: ...


_CACHE: tuple[tuple[str, str, Callable[[CacheFigures], float]], ...] = (
    ("nv_cache_util", "Cache utilization [0.0 - 1.0]", lambda cache: cache.used / cache.limit),
    ("nv_cache_num_entries", "Number of responses stored in response cache", len),
    ("nv_cache_num_hits", "Number of cache hits in response cache", lambda cache: cache.hits),
    ("nv_cache_num_misses", "Number of cache misses in response cache", lambda cache: cache.misses),
    ("nv_cache_num_lookups", "Number of cache lookups in response cache", lambda cache: cache.hits + cache.misses),
    ("nv_cache_num_evictions", "Number of cache evictions in response cache", lambda cache: cache.evictions),
    (
        "nv_cache_lookup_duration",
        "Total cache lookup duration (hit and miss), in microseconds",
        lambda cache: cache.lookup_ns // 1000,
    ),
    (
        "nv_cache_insertion_duration",
        "Total cache insertion duration, in microseconds",
        lambda cache: cache.insertion_ns // 1000,
    ),
)


def cpu_families(utilization: float) -> Iterator[Family]:
    """Processors and memory; `utilization` of all cores, from 0 to 1. The pinned pool is Triton's: there is none here."""
    memory = psutil.virtual_memory()
    yield _single("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes", 0)
    yield _single("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes", 0)
    yield _single("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", utilization)
    yield _single("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", memory.total)
    yield _single("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", memory.total - memory.available)


def gpu_families(gpus: Sequence[GpuFigures]) -> Iterator[Family]:
    """A sample for each GPU; no family where there is none."""
    for name, about, reading in _GPU if gpus else ():
        family = Family(name, "gauge", about)
        for gpu in gpus:
            family.add({"gpu_uuid": gpu.uuid}, reading(gpu))
        yield family
    energy = Family("nv_energy_consumption", "counter", "GPU energy consumption in joules")
    for gpu in gpus:
        if gpu.energy:
            energy.add({"gpu_uuid": gpu.uuid}, gpu.energy)
    if energy.samples:
        yield energy


def cache_families(cache: CacheFigures) -> Iterator[Family]:
    for name, about, reading in _CACHE:
        yield _single(name, about, reading(cache))


def _single(name: str, about: str, value: float) -> Family:
    family = Family(name, "gauge", about)
    family.add({}, value)
    return family
