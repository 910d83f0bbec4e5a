"""TorchServe's description of a model version, field by field in its order."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ....backends.gpus import READER

if TYPE_CHECKING:
    from ....core.model_config import ModelConfig
    from ...serving.dataplane import Description
    from ...workers.status import WorkerStatus


def description(found: Description) -> dict[str, Any]:
    """One element of describe's array. An archive shows its numbers as they were given, also where another is in effect."""
    config = found.config
    document: dict[str, Any] = {
        "modelName": config.name,
        "modelVersion": config.version,
        "modelUrl": config.url,
        "runtime": config.runtime,
    }
    document |= dict(config.torchserve) or _numbers(config)
    document |= {
        "minWorkers": found.min_workers,
        "maxWorkers": found.max_workers,
        "loadedAtStartup": config.loaded_at_startup,
        "workers": [worker(status) for status in kept(found)],
        "jobQueueStatus": {
            "remainingCapacity": max(0, found.queue_capacity - found.queued),
            "pendingRequests": found.queued,
        },
    }
    return document


def kept(found: Description) -> list[WorkerStatus]:
    """The workers without those that were scaled away, also while they finish what they have (TorchServe kills them)."""
    return [status for status in found.workers if status.state != "STOPPING"]


def _numbers(config: ModelConfig) -> dict[str, Any]:
    """The same fields for a model of a repository, which knows nothing of sequences or parallel workers as TorchServe does."""
    return {
        "minWorkers": config.min_workers,
        "maxWorkers": config.max_workers,
        "batchSize": config.max_batch_size,
        "maxBatchDelay": config.batching.max_queue_delay_us // 1000,
        "responseTimeout": int(config.response_timeout_s),
        "startupTimeout": int(config.startup_timeout_s),
        "maxRetryTimeoutInSec": int(config.max_retry_timeout_s),
        "clientTimeoutInMills": int(config.client_timeout_s * 1000),
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "gpu" if _on_gpu(config) else "cpu",
        "continuousBatching": False,
        "useJobTicket": config.use_job_ticket,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
    }


def worker(status: WorkerStatus) -> dict[str, Any]:
    """One worker. READY only while it can answer; a loading one shows UNLOADING (TorchServe)."""
    return {
        "id": str(status.id),
        "startTime": local_time(status.started),
        "status": "READY" if status.state in ("READY", "BUSY") else "UNLOADING",
        "memoryUsage": status.memory_bytes,
        "pid": status.pid,
        "gpu": status.gpu is not None,
        "gpuUsage": "N/A" if status.gpu is None else gpu_usage(status.gpu),
    }


def gpu_usage(device: int) -> str:
    """TorchServe's sentence about a GPU, which is nvidia-smi's table in one line."""
    found = READER.of_device(device)
    if found is None:
        return "failed to obtained gpu usage"  # TorchServe's words
    return (
        f"gpuId::{device} utilization.gpu [%]::{found.utilization:.0f} % "
        f"utilization.memory [%]::{found.memory_utilization:.0f} % memory.used [MiB]::{found.memory_used:.0f} MiB"
    )


def local_time(seconds: float) -> str:
    """A time as TorchServe writes it: local, in spite of the Z."""
    offset = time.localtime(seconds).tm_gmtoff
    moment = datetime.fromtimestamp(seconds + offset, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _on_gpu(config: ModelConfig) -> bool:
    return any(group.kind == "KIND_GPU" and group.count for group in config.instance_groups)
