"""`Deployment`: one version of one model being served, however it runs; `worker_deployment` and `ensemble` have the two ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from ...codecs import Codec
from ...codecs import create as create_codec
from ...codecs.base import Encode
from ...core.call import Call, Target
from ...core.errors import JitneyError
from ...core.model_config import ModelConfig
from ...core.request import Request, Response
from ..batching.item import Waiting
from ..ipc.arena import Arena
from ..ipc.io_context import IoContext
from ..metrics.statistics import Statistics
from ..workers.host_calls import HostServer
from ..workers.shared_process import Groups
from ..workers.status import WorkerStatus
from .model_cache import ModelCache
from .response_cache import ResponseCache

OnAnswer = Callable[[Response | JitneyError], None]
#: Makes the request for the deployment that is going to get it.
MakeRequest = Callable[["Deployment"], Request]


class ModelState(StrEnum):
    """Triton's model states, as the repository index shows them."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Options:
    """What the server decides for all models.

    shape_change  "lane": an odd shape waits in a lane of its own; "flush": it closes the batch before it (Triton's way)
    host          answers workers' own calls: other models' inference, loading, unloading
    on_event      on_event(deployment, kind, payload) takes what workers emit: metrics of handlers and models
    io            the process' own
    gpus          the CUDA numbers of the GPUs that models may be placed on; None = all that there are
    models        which of those that load on demand stay loaded
    groups        the processes that workers of different models share
    """

    shape_change: str = "lane"
    host: HostServer | None = None
    on_event: Callable[[Deployment, str, Mapping[str, Any]], None] | None = None
    cache: ResponseCache | None = None
    io: IoContext = field(default_factory=IoContext)
    gpus: Sequence[int] | None = None
    models: ModelCache = field(default_factory=ModelCache)
    groups: Groups = field(default_factory=Groups)


class Deployment(ABC):
    """One served model version, however it runs.

    arena  where its requests' tensors are copied to at `submit`; None: it may keep them where they are until it has answered
    """

    arena: Arena | None = None
    on_demand = False  # whether it can answer though it is not loaded; then a load that fails is no failure of the server

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.state = ModelState.LOADING
        self.reason = ""
        self.stamp: Hashable = None  # what its files looked like when it was loaded, where the loader cares
        self.min_workers, self.max_workers = config.min_workers, config.max_workers
        self.statistics = Statistics(config)

    @cached_property
    def codec(self) -> Codec:
        """Turns TorchServe-style requests into this model's tensors, and back."""
        return create_codec(self.config)

    def load_codec(self) -> None:
        """Makes the codec now; InvalidConfig where it cannot be used, or where no codec has this name."""
        _ = self.codec

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether a request would be executed now."""

    @property
    def stranded(self) -> bool:
        """Whether it should have workers and none of them can answer; not where it was scaled to none."""
        return False

    @abstractmethod
    def refuse_without_workers(self) -> None:
        """Raises where a request could not be answered: stopping, not loaded, no workers, or none that gets up again."""

    def refuse_if_full(self, priority: int | None = None) -> None:  # noqa: B027 - nothing to be full without a queue
        """Raises QueueFull where `submit` would, as far as that can be told without the request (None: any priority)."""

    @abstractmethod
    def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        alone: bool = False,
        on_answer: OnAnswer | None = None,
        target: Target | None = None,
        encode: Encode | None = None,
    ) -> Call:
        """Queues a valid request and returns its call; raises at once where it cannot be answered.

        Outputs may be copied to where `target` says (`Call.target`); `encode` makes a body of them (`Call.encode`).
        """

    def rest(self, call: Call, rests: bool) -> None:  # noqa: B027 - nothing that could rest without workers
        """Asks that the model rests whose answers the client of this call does not read, or goes on; it need not rest."""

    @abstractmethod
    def close(self, timeout: float, *, reason: str = "unloaded") -> None:
        """Drains and stops: what was accepted is answered (for at most `timeout` seconds), then the workers end."""

    def wait_ready(self, timeout: float | None = None) -> None:  # noqa: B027 - nothing to wait for without workers
        """Waits until the workers have loaded the model; raises LoadFailed with their reason."""

    def queued(self) -> int:
        """Requests that wait for a worker."""
        return 0

    def queued_rows(self) -> int:
        """Rows of these requests."""
        return 0

    def waiting(self) -> Waiting:
        """The same lane by lane, with rows and ages."""
        return Waiting()

    def workers(self) -> list[WorkerStatus]:
        return []

    def healthy_workers(self) -> int:
        """Workers that run, start or are being restarted; those given up do not count."""
        return 0

    def wanted_workers(self) -> int:
        """Workers that should be there now."""
        return 0
