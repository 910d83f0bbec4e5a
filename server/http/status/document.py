"""What `/status.json` says: the models and their workers, what waits, the batches of the last minute, where the time goes.

Everything is read from what is counted anyway. Counters only grow, so two readings give rates.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .... import __version__
from ....backends import gpus
from ....core.model_config import ModelConfig, TensorSpec
from ...batching.item import Line
from ...metrics.recent import LastMinute, Spread
from ...metrics.statistics import ModelStatistics

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane
    from ...serving.dataplane import DataPlane
    from ...serving.deployment import Deployment
    from ...settings.addresses import Address
    from ...settings.settings import Settings
    from ..middleware.admission import Admission

Json = dict[str, Any]
#: Lines of what waits that are listed for a model version; more come from clients that make up shapes.
MAX_LINES = 32


@dataclass(frozen=True)
class StatusDocument:
    """Makes the document. Thread-safe."""

    dataplane: DataPlane
    control: ControlPlane
    settings: Settings
    admission: Admission
    started: float = field(default_factory=time.time)

    def read(self) -> Json:
        """Everything at this moment."""
        return {"server": self._server(), "gpus": _gpus(), "models": self._models()}

    def _server(self) -> Json:
        places = self.admission.waiting
        return {
            "name": "jitney",
            "version": __version__,
            "time": time.time(),
            "clock": time.monotonic(),
            "started": self.started,
            "ready": self.dataplane.ready(),
            "stopping": self.dataplane.stopping,
            "in_flight": places.taken,
            "max_waiting": places.limit,
            "front_ends": self.settings.front_ends,
            "inference": _place(self.settings.inference_address),
        }

    def _models(self) -> list[Json]:
        records = dict(self.dataplane.registry.records())
        found: dict[str, Json] = {}
        for entry in self.control.index():
            record = records.get(entry.name)
            default = record.default_version if record else None
            model = found.setdefault(entry.name, {"name": entry.name, "default": default, "versions": []})
            if not entry.version and not entry.state:
                model["versions"].append(
                    {"version": "", "state": "NOT LOADED", "reason": "it was not asked for", "ready": False}
                )
                continue
            told: Json = {"version": entry.version, "state": entry.state, "reason": entry.reason, "ready": False}
            deployment = record.serving.get(entry.version) if record else None
            model["versions"].append(told | (served(deployment) if deployment is not None else {}))
        return list(found.values())


def served(deployment: Deployment) -> Json:
    """One version that serves."""
    config, now = deployment.config, deployment.statistics.snapshot()
    recent = deployment.statistics.last_minute()
    return {
        "ready": deployment.ready,
        "backend": config.backend,
        "codec": config.codec,
        "archive": config.is_archive,
        "decoupled": config.decoupled,
        "inputs": [_spec(spec) for spec in config.inputs],
        "outputs": [_spec(spec) for spec in config.outputs],
        "workers": [_worker(worker) for worker in deployment.workers()],
        "wanted_workers": deployment.wanted_workers(),
        "waiting": _waiting(deployment),
        "batching": _batching(config),
        "counters": _counters(now),
        "last_minute": _last_minute(recent),
    }


def _spec(spec: TensorSpec) -> Json:
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "dims": spec.dims,
        "optional": spec.optional,
    }


def _worker(worker: Any) -> Json:
    device = "CPU" if worker.gpu is None else f"GPU {worker.gpu}"
    names = ("id", "pid", "started", "memory_bytes", "restarts", "error", "load_seconds")
    return {"state": worker.state.value, "device": device, **{name: getattr(worker, name) for name in names}}


def _waiting(deployment: Deployment) -> Json:
    waiting = deployment.waiting()
    lines = sorted(waiting.lines, key=lambda line: -line.requests)
    return {
        "requests": waiting.requests,
        "rows": waiting.rows,
        "oldest_ms": _ms(waiting.oldest * 1e9),
        "lanes": [_line(line) for line in lines[:MAX_LINES]],
        "lanes_left_out": max(0, len(lines) - MAX_LINES),
    }


def _line(line: Line) -> Json:
    return {
        "lane": _key(line.key),
        "priority": line.level,
        "overdue": line.overdue,
        "requests": line.requests,
        "rows": line.rows,
        "oldest_ms": _ms(line.oldest * 1e9),
    }


def _key(key: Hashable) -> str:
    """What the requests of a lane have in common, for people; "" where it is nothing in particular."""
    if not isinstance(key, tuple):
        return ""
    inputs: Iterable[tuple[str, str, tuple[int, ...] | None]] = key
    return ", ".join(f"{name} {kind}{'[…]' if shape is None else list(shape)}" for name, kind, shape in inputs)


def _batching(config: ModelConfig) -> Json:
    """What the configuration allows."""
    batching = config.batching
    return {
        "enabled": (batching.enabled and config.max_batch_size > 0) or config.sequence is not None,
        "max_batch_size": config.max_batch_size,
        "max_queue_delay_ms": batching.max_queue_delay_us / 1000,
        "preferred_batch_size": batching.preferred_batch_size,
        "max_queue_size": batching.default_queue_policy.max_queue_size,
        "priority_levels": batching.priority_levels,
        "sequences": config.sequence is not None,
    }


def _counters(now: ModelStatistics) -> Json:
    return {
        "requests": now.success.count,
        "rows": now.inference_count,
        "batches": now.execution_count,
        "failures": {reason.lower(): count for reason, count in now.failures.items()},
        "cache_hits": now.cache_hit.count,
        "last_inference_ms": now.last_inference,
    }


def _last_minute(recent: LastMinute) -> Json:
    sizes: dict[int, dict[str, int]] = {}
    for (reason, rows), count in sorted(recent.batches.items()):
        sizes.setdefault(rows, {})[str(reason)] = count
    return {
        "seconds": round(recent.seconds, 1),
        "batches": [{"rows": rows, "left": left} for rows, left in sorted(sizes.items())],
        "parts": {part: _part(spread) for part, spread in recent.parts.items() if spread.values},
    }


def _part(spread: Spread) -> Mapping[str, float | None]:
    return {"mean_ms": _ms(spread.mean), "p50_ms": _ms(spread.quantile(0.5)), "p99_ms": _ms(spread.quantile(0.99))}


def _ms(ns: float | None) -> float:
    return round((ns or 0) / 1e6, 4)


def _place(address: Address) -> Json | None:
    """Where inference is asked for, for examples; None where it is no TCP port."""
    return {"scheme": address.scheme, "host": address.host, "port": address.port} if address.port else None


def _gpus() -> list[Json]:
    return [
        {
            "index": gpu.index,
            "utilization": gpu.utilization,
            "memory_used_mib": gpu.memory_used,
            "memory_total_mib": gpu.memory_total,
        }
        for gpu in gpus.READER.read()
    ]
