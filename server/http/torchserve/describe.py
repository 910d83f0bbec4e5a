"""TorchServe's description of a model version, field by field in its order."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...dataplane import Description
    from ...repository.config import ModelConfig
    from ...workers.pool import WorkerStatus


def description(found: Description) -> dict[str, Any]:
    """One element of describe's array. Sequence fields count only where the archive sets an idle time, as there."""
    config = found.config
    yaml = config.handler.yaml if config.handler else {}
    document: dict[str, Any] = {
        "modelName": config.name,
        "modelVersion": config.version,
        "modelUrl": config.url,
        "runtime": config.runtime,
        "minWorkers": found.min_workers,
        "maxWorkers": found.max_workers,
        "batchSize": config.max_batch_size,
        "maxBatchDelay": config.batching.max_queue_delay_us // 1000,
        "responseTimeout": int(config.response_timeout_s),
        "startupTimeout": int(config.startup_timeout_s),
        "maxRetryTimeoutInSec": int(config.max_retry_timeout_s),
        "clientTimeoutInMills": int(config.client_timeout_s * 1000),
        "parallelType": _parallel_type(yaml),
        "parallelLevel": _integer(yaml, "parallelLevel"),
        "deviceType": "gpu" if _on_gpu(config) else "cpu",
    }
    if devices := _device_ids(yaml):
        document["deviceIds"] = devices
    document |= {
        "continuousBatching": yaml.get("continuousBatching") is True,
        "useJobTicket": config.use_job_ticket,
        "useVenv": yaml.get("useVenv") is True,
        "stateful": yaml.get("sequenceBatching") is True,
        **_sequence(yaml),
        "loadedAtStartup": config.loaded_at_startup,
        "workers": [worker(status) for status in found.workers],
        "jobQueueStatus": {
            "remainingCapacity": max(0, found.queue_capacity - found.queued),
            "pendingRequests": found.queued,
        },
    }
    return document


def worker(status: WorkerStatus) -> dict[str, Any]:
    """One worker. READY only while it can answer; a loading one shows UNLOADING (TorchServe)."""
    return {
        "id": str(status.id),
        "startTime": local_time(status.started),
        "status": "READY" if status.state in ("READY", "BUSY") else "UNLOADING",
        "memoryUsage": status.memory_bytes,
        "pid": status.pid,
        "gpu": status.gpu is not None,
        "gpuUsage": "N/A",
    }


def local_time(seconds: float) -> str:
    """A time as TorchServe writes it: local, in spite of the Z."""
    offset = time.localtime(seconds).tm_gmtoff
    moment = datetime.fromtimestamp(seconds + offset, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _on_gpu(config: ModelConfig) -> bool:
    return any(group.kind == "KIND_GPU" and group.count for group in config.instance_groups)


def _parallel_type(yaml: Mapping[str, Any]) -> str:
    kind = yaml.get("parallelType", "")
    return kind if kind in ("pp", "tp", "pptp", "custom") else ""


def _device_ids(yaml: Mapping[str, Any]) -> list[int]:
    devices = yaml.get("deviceIds")
    return [int(d) for d in devices] if isinstance(devices, list) and all(isinstance(d, int) for d in devices) else []


def _sequence(yaml: Mapping[str, Any]) -> dict[str, int]:
    names = ("sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize")
    if _integer(yaml, "sequenceMaxIdleMSec") <= 0:
        return dict.fromkeys(names, 0)
    return {name: _integer(yaml, name, 1 if name.startswith("max") else 0) for name in names}


def _integer(yaml: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = yaml.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
