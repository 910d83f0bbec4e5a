"""`OnDemandDeployment`: a model version whose workers start with the first request for it, and end where nothing asks any more.

While it is not loaded it costs the server its configuration and its counters: no process, no thread, no shared memory. The first
request starts the workers and waits for them in the model's queue like any other, with its own deadline. What is loaded, and for
how long, `model_cache` decides.

A load that fails answers what waited for it with the reason. For `RETRY_S` after that, requests are refused with that reason at
once; the next one begins another load.

The file is long since it is a `Deployment` twice over: loaded, and not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from ...codecs.base import Encode
from ...core.call import Call, Target
from ...core.errors import Draining, LoadFailed, NoWorkers
from ...core.model_config import ModelConfig
from ...core.request import Request
from ...core.sequence_spec import SequenceSpec
from ..batching.item import Waiting
from ..ipc.arena import Arena
from ..process import cores
from ..workers import placement
from ..workers.status import Seat, WorkerStatus
from .deployment import Deployment, ModelState, OnAnswer, Options
from .response_cache import new_generation
from .sequence_deployment import SequenceDeployment
from .worker_deployment import WorkerDeployment

log = logging.getLogger(__name__)

#: Why a version that is ready has no workers, as the repository index tells it.
NOT_LOADED = "not loaded: it is loaded on demand"
#: Seconds after a failed load in which requests are refused with its reason instead of beginning another.
RETRY_S = 3.0
#: Seconds that the workers of an unloaded version may take to answer what it had accepted.
DRAIN_S = 30.0
#: A request that meets a version in the moment in which it is unloaded begins anew, so many times.
_ATTEMPTS = 5


def deployment_of(config: ModelConfig, options: Options) -> WorkerDeployment:
    """What runs a model version in workers."""
    kind = WorkerDeployment if config.sequence is None else SequenceDeployment
    return kind(config, options)


class OnDemandDeployment(Deployment):
    """Threads: any. `used` is when a request last came or was seen under way, or it became loaded, in monotonic seconds; `memory`
    what its workers last took, in bytes."""

    on_demand = True

    def __init__(self, config: ModelConfig, options: Options) -> None:
        super().__init__(config)
        self.used, self.memory = 0.0, 0
        self._options, self._cache = options, options.models
        self._lock = threading.Lock()
        self._loaded: WorkerDeployment | None = None
        self._failed: tuple[float, str] | None = None
        self._closing = False
        self._kept = 0  # workers that it was scaled to, and keeps
        self._generation = new_generation()
        self._sequence_s = (
            0.0 if config.sequence is None else SequenceSpec.of(config).idle
        )  # InvalidConfig where it cannot work
        self.state, self.reason = ModelState.READY, NOT_LOADED
        self.min_workers = 0
        placement.instances(config, self._count(), gpus=self._gpus(), cores=1)  # InvalidConfig where they have no place here

    def _count(self) -> int:
        """The workers that a load starts. An archive has a number of them, and none that is none as far as loads go."""
        if self._kept or self.config.is_archive:
            return self._kept or max(self.config.min_workers, 1)
        return placement.declared(self.config, self._gpus())

    def _gpus(self) -> Sequence[int]:
        return cores.machine_gpus() if self._options.gpus is None else self._options.gpus

    # -- requests --------------------------------------------------------------------------------------------------------

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
        for _ in range(_ATTEMPTS):
            loaded = self._awake()
            try:
                return loaded.submit(
                    request,
                    priority=priority,
                    timeout_us=timeout_us,
                    alone=alone,
                    on_answer=on_answer,
                    target=target,
                    encode=encode,
                )
            except Draining:  # it is being unloaded at this moment
                if self._closing:
                    raise
                self._let_go(loaded)
        raise Draining(f"model '{self.config.name}' is unloaded again and again: the machine's memory holds too few models")

    def rest(self, call: Call, rests: bool) -> None:
        loaded = self._loaded
        if loaded is not None:
            loaded.rest(call, rests)

    def _awake(self) -> WorkerDeployment:
        loaded = self._loaded or self._load()
        self.used = time.monotonic()
        return loaded

    def _load(self) -> WorkerDeployment:
        made: WorkerDeployment | None = None
        try:
            with self._lock:
                self._refuse()
                if self._loaded is not None:
                    return self._loaded
                made = self._made()
                self.used = time.monotonic()
                made.start(1)  # the others when it has loaded: the request that waits gets all of the processor
                self._loaded, self._failed = made, None
                self.state, self.reason = ModelState.READY, ""
        except BaseException:
            if made is not None:
                made.close(0.0)
            raise
        self._cache.add(self)
        return made

    def _made(self) -> WorkerDeployment:
        """What is to run it, without workers yet."""
        made = deployment_of(self.config, self._options)
        made.resume(self.statistics, self._generation)
        made.on_workers = lambda: self._workers_changed(made)
        return made

    def _refuse(self) -> None:
        """Raises where no load may begin now; with the lock held."""
        if self._closing:
            raise Draining(f"model '{self.config.name}' is stopping and accepts no new requests")
        if self._failed is not None and time.monotonic() - self._failed[0] < RETRY_S:
            raise NoWorkers(self._failed[1])

    def refuse_without_workers(self) -> None:
        loaded = self._loaded
        if loaded is None or self._closing:
            with self._lock:
                self._refuse()
            return
        try:
            loaded.refuse_without_workers()
        except Draining:
            pass  # `submit` loads it again

    def refuse_if_full(self, priority: int | None = None) -> None:
        if (loaded := self._loaded) is not None:
            loaded.refuse_if_full(priority)

    def load_now(self) -> None:
        """Loads it without a request and waits for that, also where a load has just failed; LoadFailed with the reason."""
        with self._lock:
            self._failed = None
        try:
            loaded = self._awake()
            loaded.pool.wait_ready()
            self._grow(loaded)
            loaded.pool.wait_ready()
        except Draining:
            if self._failed is None:  # else its workers are being taken away because they could not load it
                raise
            raise LoadFailed(self._failed[1]) from None

    def explainer(self) -> WorkerDeployment:
        """See `WorkerDeployment.explainer`; begins to load the version for it."""
        return self._awake().explainer()

    # -- what becomes of the workers -------------------------------------------------------------------------------------

    def _workers_changed(self, loaded: WorkerDeployment) -> None:
        """Called when a worker became ready, or is no longer; what waited for a failed load has been answered."""
        if not loaded.pool.no_workers_left():
            self.used = time.monotonic()  # however long the load took
            self._grow(loaded)
            self._cache.look()
            return
        reason = str(loaded.pool.no_workers())
        with self._lock:
            if self._loaded is not loaded or self._closing:
                return
            self._loaded, self._failed = None, (time.monotonic(), reason)
            self.state, self.reason = ModelState.UNAVAILABLE, reason
        self._cache.drop(self, loaded)

    def _grow(self, loaded: WorkerDeployment) -> None:
        """Starts the workers that the first one went ahead of."""
        with self._lock:
            if self._loaded is loaded and loaded.pool.ready() and loaded.wanted_workers() < self._count():
                loaded.scale(self._count())

    def _let_go(self, loaded: WorkerDeployment) -> None:
        with self._lock:
            if self._loaded is loaded:
                self._loaded, self.reason = None, NOT_LOADED

    def unload(self, unused_since: float) -> bool:
        """Ends its workers and waits for that.

        False where a request has come since, waits or runs, or where a sequence may be under way.
        """
        with self._lock:
            loaded = self._loaded
            if loaded is None or self._kept or self.used > unused_since:
                return False
            if time.monotonic() - self.used < self._sequence_s:
                return False  # a sequence may be under way, whose state would end with its worker
            if _is_busy(loaded):
                self.used = time.monotonic()  # it is unused from the end of what it does
                return False
            self._loaded, self.reason = None, NOT_LOADED
            unused = time.monotonic() - self.used
        loaded.close(DRAIN_S, reason=NOT_LOADED)
        log.info("model '%s' version %s is unloaded, unused for %.0f s", self.config.name, self.config.version, unused)
        return True

    def close(self, timeout: float, *, reason: str = "unloaded") -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            loaded, self._loaded = self._loaded, None
        self.state, self.reason = ModelState.UNLOADING, reason
        if loaded is not None:
            loaded.close(timeout, reason=reason)
            self._cache.forget(self)
        self.state = ModelState.UNAVAILABLE

    def scale(self, workers: int, *, retry: bool = False) -> None:
        """Keeps so many workers from now on, beginning to start them where they are not there; 0 = loads on demand again, and
        is unloaded now where nothing is to be answered."""
        with self._lock:
            self._kept = workers
            loaded = self._loaded
        if not workers:
            if self.unload(time.monotonic()):
                self._cache.forget(self)
        elif loaded is not None:
            loaded.scale(workers, retry=retry)
        else:
            self._awake()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits for the workers that it keeps, if it does."""
        if self._kept:
            self.load_now()

    def reconfigure(self, config: ModelConfig) -> None:
        """Takes over a configuration that differs in the number of workers only."""
        with self._lock:
            self.config = config
            if self._loaded is not None:
                self._loaded.scale(self._count())
                self._loaded.config = config

    # -- figures ---------------------------------------------------------------------------------------------------------

    @property
    def arena(self) -> Arena | None:  # type: ignore[override]
        """Of the workers that are there; without one, tensors stay where they are until a request brings them."""
        loaded = self._loaded
        return None if loaded is None else loaded.arena

    @property
    def ready(self) -> bool:
        """Whether a request would be answered, perhaps after a load: not for a while after a load has failed."""
        if self._closing:
            return False
        return self._failed is None or time.monotonic() - self._failed[0] >= RETRY_S

    @property
    def idle_timeout_s(self) -> float:
        """Seconds without a request after which it is unloaded; 0 = never for that reason."""
        return self.config.idle_timeout_s

    @property
    def is_loaded(self) -> bool:
        """Whether it has workers, or is starting them."""
        return self._loaded is not None

    def seats(self) -> list[Seat]:
        """The workers that have loaded the model."""
        loaded = self._loaded
        return [] if loaded is None else loaded.pool.seats()

    def queued(self) -> int:
        loaded = self._loaded
        return 0 if loaded is None else loaded.queued()

    def waiting(self) -> Waiting:
        loaded = self._loaded
        return Waiting() if loaded is None else loaded.waiting()

    def workers(self) -> list[WorkerStatus]:
        loaded = self._loaded
        return [] if loaded is None else loaded.workers()

    def healthy_workers(self) -> int:
        loaded = self._loaded
        return 0 if loaded is None else loaded.healthy_workers()

    def wanted_workers(self) -> int:
        loaded = self._loaded
        return 0 if loaded is None else loaded.wanted_workers()


def _is_busy(loaded: WorkerDeployment) -> bool:
    return loaded.queued() > 0 or loaded.pool.busy()
