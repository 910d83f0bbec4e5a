"""From an opened TorchServe archive and its numbers to a `ModelConfig` with backend "handler". Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....core.errors import InvalidArchive, Unsupported
from ....core.model_config import AT_ONCE, SEQUENCE_HEADERS, Batching, HandlerSpec, InstanceGroup, ModelConfig, QueuePolicy
from ...settings.settings import Settings
from .archive import Archive
from .model_yaml import ModelYaml, Numbers, plain
from .registration import Registration

#: Milliseconds without a request after which a sequence ends that has no idle time of its own.
NEVER_IDLE_MS = 24 * 3600 * 1000
PARALLEL = ("pp", "tp", "pptp", "custom")


def handler_config(
    settings: Settings,
    registration: Registration,
    archive: Archive,
    found: ModelYaml,
    numbers: Numbers,
    *,
    name: str,
    gpus: Sequence[int],
) -> ModelConfig:
    """`gpus`: ids of the GPUs that models may use. Raises InvalidArchive without a handler, Unsupported for what is not
    offered."""
    _refuse(name, found, numbers)
    entry = registration.handler or archive.manifest.handler or settings.default_service_handler
    if not entry:
        raise InvalidArchive(f"model '{name}' has no handler, and default_service_handler is not set", "file", "handler")
    directory, groups = str(archive.directory), instance_groups(found, gpus)
    return ModelConfig(
        name=name,
        version=archive.manifest.model_version,
        backend="handler",
        directory=directory,
        version_directory=directory,
        max_batch_size=numbers.rows,
        batching=_batching(found, numbers),
        max_in_flight=numbers.rows if found.continuous_batching else 0,
        instance_groups=groups,
        handler=_handler(entry, settings, archive, found),
        sequence=_sequence(found, numbers) if found.sequence_batching else None,
        environment=_told(settings) | _sequence_names(settings.sequence_headers),
        response_timeout_s=0.0 if found.async_communication else _limit(numbers.response_timeout),  # as TorchServe's
        startup_timeout_s=_limit(numbers.startup_timeout),
        min_workers=numbers.min_workers,
        max_workers=numbers.max_workers,
        max_retry_timeout_s=float(found.max_retry_timeout),
        client_timeout_s=found.client_timeout_ms / 1000,
        use_job_ticket=found.use_job_ticket,
        url=registration.url,
        runtime=numbers.runtime,
        withheld_environment=settings.blacklist_env_vars,
        torchserve=shown(found, numbers, groups),
    )


def _batching(found: ModelYaml, numbers: Numbers) -> Batching:
    return Batching(
        # With continuousBatching the worker puts them together, round by round: each leaves as soon as there is a place.
        enabled=numbers.rows > 1 and not found.continuous_batching,
        max_queue_delay_us=numbers.delay_ms * 1000,
        default_queue_policy=QueuePolicy(max_queue_size=numbers.job_queue_size),
    )


def _handler(entry: str, settings: Settings, archive: Archive, found: ModelYaml) -> HandlerSpec:
    return HandlerSpec(
        entry=entry,
        manifest=plain(archive.manifest.document, "MANIFEST.json"),
        yaml=found.document,
        envelope=settings.service_envelope,
        limit_max_image_pixels=settings.limit_max_image_pixels,
        decode_input_request=settings.decode_input_request,
        metrics_config=settings.metrics_config,
        sequence_headers=settings.sequence_headers,
    )


def _limit(seconds: int) -> float:
    """A timeout as `ModelConfig` has it: for TorchServe 0 is no time at all, and so is what is less."""
    return float(seconds) if seconds > 0 else AT_ONCE


def _refuse(name: str, found: ModelYaml, numbers: Numbers) -> None:
    if numbers.runtime == "LSP":
        raise Unsupported(f"model '{name}': runtime LSP needs TorchServe's C++ backend, expected python")
    if found.parallel_type in PARALLEL:
        raise Unsupported(
            f"model '{name}': parallelType {found.parallel_type} is not offered; a model runs in one process for each worker"
        )
    if found.continuous_batching and found.sequence_batching:
        both = "continuousBatching and sequenceBatching"
        raise Unsupported(f"model '{name}': model-config.yaml asks for {both}, which are not offered together")


def _sequence(found: ModelYaml, numbers: Numbers) -> dict[str, Any]:
    """TorchServe's sequence batching in the words of Triton's: the oldest requests of a worker's sequences, one of each, are a
    batch. The limits count only where an idle time is declared (TorchServe); without one a sequence ends after `NEVER_IDLE_MS`.
    """
    idle = found.sequence_max_idle_ms
    most = found.max_num_sequence if idle else numbers.rows * max(1, numbers.max_workers)
    return {
        "max_sequence_idle_microseconds": 1000 * (idle or NEVER_IDLE_MS),
        "oldest": {
            "max_candidate_sequences": max(1, most // max(1, numbers.min_workers)),
            "max_queue_delay_microseconds": 1000 * numbers.delay_ms,
        },
        "archive": {
            "lifetime_microseconds": 1000 * found.sequence_timeout_ms if idle else 0,
            "sequences": most,
            "queue": found.max_sequence_job_queue_size if idle else 0,
        },
    }


def _told(settings: Settings) -> dict[str, str]:
    """The variables in which TorchServe's workers find settings of the server, where those are not the usual ones."""
    told = {
        "TS_DECODE_INPUT_REQUEST": "" if settings.decode_input_request else "false",
        "TS_IPEX_ENABLE": "true" if settings.ipex_enable else "",
        "TS_IPEX_GPU_ENABLE": "true" if settings.ipex_gpu_enable else "",
    }
    return {name: value for name, value in told.items() if value}


def _sequence_names(headers: tuple[str, str, str]) -> dict[str, str]:
    """The variables in which `ts.context` finds the headers' names, where they are not the usual ones."""
    names = ("TS_REQUEST_SEQUENCE_ID", "TS_REQUEST_SEQUENCE_START", "TS_REQUEST_SEQUENCE_END")
    return {} if headers == SEQUENCE_HEADERS else dict(zip(names, headers, strict=True))


def instance_groups(found: ModelYaml, gpus: Sequence[int]) -> tuple[InstanceGroup, ...]:
    """Where workers go, in turn; how many there are is the number of workers (TorchServe).

    `deviceIds` counts only where each of them exists. Without a GPU, and with `deviceType: cpu`, the CPU.
    """
    if not gpus or found.device_type == "cpu":
        return (InstanceGroup(count=1, kind="KIND_CPU"),)
    ids = found.device_ids if found.device_ids and set(found.device_ids) <= set(gpus) else tuple(gpus)
    return (InstanceGroup(count=1, kind="KIND_GPU", gpus=tuple(ids)),)


def shown(found: ModelYaml, numbers: Numbers, groups: tuple[InstanceGroup, ...]) -> dict[str, Any]:
    """The numbers as TorchServe's describe shows them, in its order; sequence fields are 0 without an idle time."""
    idle = found.sequence_max_idle_ms
    on_gpu = groups[0].kind == "KIND_GPU"
    document: dict[str, Any] = {
        "minWorkers": numbers.min_workers,
        "maxWorkers": numbers.max_workers,
        "batchSize": numbers.batch_size,
        "maxBatchDelay": numbers.max_batch_delay,
        "responseTimeout": numbers.response_timeout,
        "startupTimeout": numbers.startup_timeout,
        "maxRetryTimeoutInSec": found.max_retry_timeout,
        "clientTimeoutInMills": found.client_timeout_ms,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "gpu" if on_gpu else "cpu",
    }
    if on_gpu and found.device_ids and groups[0].gpus == found.device_ids:
        document["deviceIds"] = list(found.device_ids)
    return document | {
        "continuousBatching": found.continuous_batching,
        "useJobTicket": found.use_job_ticket,
        "useVenv": found.use_venv,
        "stateful": found.sequence_batching,
        "sequenceMaxIdleMSec": idle,
        "sequenceTimeoutMSec": found.sequence_timeout_ms if idle else 0,
        "maxNumSequence": found.max_num_sequence if idle else 0,
        "maxSequenceJobQueueSize": found.max_sequence_job_queue_size if idle else 0,
    }
