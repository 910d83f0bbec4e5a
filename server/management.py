"""Registering, scaling and unregistering models: TorchServe's verbs, on whatever model the registry holds.

register      from the model store; workers start beside everything that runs; the first version becomes the default
scale         up: adds workers without disturbing those that run; down: the last ones finish their batch and end
set_default   which version answers when none is named
unregister    the version stops taking requests, answers what it had accepted, and its files go
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .deployment import Options, State, WorkerDeployment
from .errors import AlreadyRegistered, DefaultVersionInUse, LoadFailed, ModelNotFound, Unsupported, VersionNotFound
from .registration import Registration
from .registry import Registry
from .repository.config import ModelConfig
from .repository.store import ModelStore

log = logging.getLogger(__name__)


class Management:
    """TorchServe's management of models. Threads: any; changes take turns, waiting for workers does not hold the turn."""

    def __init__(
        self,
        registry: Registry,
        store: ModelStore,
        options: Options,
        on_change: Callable[[], None],
        unregister_timeout: float,
    ) -> None:
        self.registry, self.store, self.options = registry, store, options
        self.on_change, self.unregister_timeout = on_change, unregister_timeout
        self._turn = threading.Lock()

    # -- register ----------------------------------------------------------------------------------------------------------

    def register(self, registration: Registration, *, at_startup: bool = False) -> tuple[str, str, int]:
        """Name, version and workers of the new version. Synchronous: its workers are ready, or LoadFailed and it is gone."""
        with self._turn:
            config = self.store.resolve(registration, at_startup=at_startup)
            deployment = self._add(config)
        workers = config.min_workers
        if workers:
            self._begin(deployment, workers, registration.synchronous)
        else:
            deployment.state = State.READY
        self.on_change()
        return config.name, config.version, workers

    def _add(self, config: ModelConfig) -> WorkerDeployment:
        try:
            if config.version in self.registry.record(config.name).serving:
                self.store.release(config)
                raise AlreadyRegistered(config.name, config.version)
            first = not self.registry.record(config.name).serving
        except ModelNotFound:
            first = True
        deployment = WorkerDeployment(config, self.options)
        self.registry.put(deployment, default=first)
        return deployment

    def _begin(self, deployment: WorkerDeployment, workers: int, synchronous: bool) -> None:
        """Starts the first workers. Asynchronous: failures are retried with back-off, and calls wait meanwhile."""
        deployment.start(workers, retry=not synchronous)
        if not synchronous:
            threading.Thread(target=_settle, args=(deployment,), name=f"load-{deployment.config.name}", daemon=True).start()
            return
        try:
            deployment.wait_ready()
        except LoadFailed:
            self._remove(deployment, timeout=0.0)
            raise

    # -- scale -------------------------------------------------------------------------------------------------------------

    def scale(self, model: str, version: str | None, min_workers: int, max_workers: int, synchronous: bool) -> int | None:
        """Brings the number of workers between the two. The number of workers where it waited for them, else None.

        Synchronous: waits until they are, LoadFailed with the reason if they cannot be.
        """
        deployment = self._workers_of(model, version)
        with self._turn:
            now = deployment.wanted_workers()
            wanted = min(max(now, min_workers), max_workers)
            deployment.min_workers, deployment.max_workers = min_workers, max_workers
            deployment.scale(wanted)
        self.on_change()
        if synchronous:
            deployment.wait_ready()
            return wanted
        if deployment.state is not State.READY:
            threading.Thread(target=_settle, args=(deployment,), name=f"scale-{model}", daemon=True).start()
        return None

    def _workers_of(self, model: str, version: str | None) -> WorkerDeployment:
        record = self.registry.record(model)
        wanted = version or record.default_version
        if wanted is None or wanted not in record.serving:
            raise VersionNotFound(model, wanted or "")
        deployment = record.serving[wanted]
        if not isinstance(deployment, WorkerDeployment):
            raise Unsupported(f"model '{model}' is an ensemble: scale the models of its steps")
        return deployment

    # -- versions ----------------------------------------------------------------------------------------------------------

    def set_default(self, model: str, version: str) -> None:
        """Names the version that answers when none is given; raises ModelNotFound or VersionNotFound."""
        self.registry.set_default(model, version)
        self.on_change()

    def unregister(self, model: str, version: str | None) -> None:
        """Removes a version (the default one where none is named, unless others exist) after it has drained."""
        with self._turn:
            record = self.registry.record(model)
            wanted = version or record.default_version or ""
            if wanted not in record.serving:
                raise VersionNotFound(model, wanted)
            if wanted == record.default_version and len(record.serving) > 1:
                raise DefaultVersionInUse(model)
            deployment = self._workers_of(model, wanted)
            self.registry.take(model, wanted, None)
        self._close(deployment, self.unregister_timeout)
        self.on_change()

    def _remove(self, deployment: WorkerDeployment, timeout: float) -> None:
        with self._turn:
            self.registry.take(deployment.config.name, deployment.config.version, None)
        self._close(deployment, timeout)

    def _close(self, deployment: WorkerDeployment, timeout: float) -> None:
        deployment.close(timeout)
        self.store.release(deployment.config)


def _settle(deployment: WorkerDeployment) -> None:
    """Waits for the workers of an asynchronous start and says how it went."""
    began = time.monotonic()
    try:
        deployment.wait_ready()
    except LoadFailed as error:
        log.error("model '%s' version %s: %s", deployment.config.name, deployment.config.version, error)
        return
    log.info(
        "model '%s' version %s is ready after %.1f s",
        deployment.config.name,
        deployment.config.version,
        time.monotonic() - began,
    )
