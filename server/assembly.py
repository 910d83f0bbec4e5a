"""The parts of a server as its settings want them: metrics, a model repository, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .http.middleware.tokens import Tokens
from .metrics import Metrics
from .process.cores import machine_gpus
from .repository.triton.limits import Limits
from .repository.triton.loading import Loading
from .repository.triton.repository import TritonRepository
from .serving.registry import Registry
from .serving.response_cache import ResponseCache
from .settings.settings import Settings
from .tracing.collector import Collector


def usable_gpus(number: int | None) -> tuple[int, ...] | None:
    """The GPUs that `number_of_gpu` leaves, those with the lowest numbers (TorchServe); None = all that there are."""
    return None if number is None else machine_gpus()[:number] if number else ()


def make_metrics(
    settings: Settings, registry: Registry, cache: ResponseCache | None, collector: Collector | None
) -> Metrics:
    """With the figures of the collector of traces, where there is one."""
    metrics = Metrics(
        registry.deployments,
        mode=settings.metrics_mode,
        config=settings.metrics_config,
        auto_detect=settings.model_metrics_auto_detect,
        system=not settings.disable_system_metrics,
        interval=settings.metric_time_interval,
        cache=cache,
    )
    if collector is not None:
        metrics.more.append(collector.families)
        metrics.exemplars = collector.exemplars
    return metrics


def make_repository(settings: Settings, gpus: Sequence[int] | None) -> TritonRepository | None:
    """None where the settings name no folder of models."""
    if not settings.model_repository:
        return None
    return TritonRepository(
        [Path(folder) for folder in settings.model_repository],
        auto_complete=not settings.disable_auto_complete_config,
        backend_config=settings.backend_config,
        backend_directory=Path(settings.backend_directory) if settings.backend_directory else None,
        config_name=settings.model_config_name,
        limits=Limits(max(0, settings.default_response_timeout), max(0, settings.repository_startup_timeout)),
        gpus=gpus,
        load=Loading(settings.default_load == "on_demand", settings.default_idle_timeout_s),
    )


def make_tokens(settings: Settings) -> Tokens | None:
    """The keys that requests need, where they need any (TorchServe's key_file.json, or JITNEY_TOKEN)."""
    if not settings.token_auth:
        return None
    path = None if settings.token else Path.cwd() / "key_file.json"
    return Tokens(path, settings.token_expiration_min, fixed=settings.token)
