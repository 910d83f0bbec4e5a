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

from ...core.errors import (
    AlreadyRegistered,
    DefaultVersionInUse,
    Draining,
    JitneyError,
    LoadFailed,
    ModelNotFound,
    Unsupported,
    VersionNotFound,
)
from ...core.model_config import ModelConfig
from ..repository.torchserve.model_store import ModelStore
from ..repository.torchserve.registration import Registration
from ..serving.deployment import ModelState, Options
from ..serving.on_demand import OnDemandDeployment, deployment_of
from ..serving.registry import Registry
from ..serving.worker_deployment import WorkerDeployment
from ..settings.snapshots import Registered

log = logging.getLogger(__name__)

#: A version that has workers, or starts them when it is asked.
Served = WorkerDeployment | OnDemandDeployment


class Management:
    """TorchServe's management of models. Threads: any; changes of the registry take turns. Neither fetching, unpacking and
    installing nor waiting for workers holds the turn."""

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
        self._closed = False

    # -- register ----------------------------------------------------------------------------------------------------------

    def register(self, registration: Registration) -> tuple[str, str, int]:
        """Name, version and workers of the new version. Synchronous: its workers are ready, or LoadFailed and it is gone."""
        try:
            deployment = self._enter(registration)
        except JitneyError as error:
            # TorchServe's texts, which are all that most tools show of an answer, leave the reason out.
            log.warning("'%s' is not registered: %s", registration.url, " ".join(str(error).split()))
            raise
        config, workers = deployment.config, deployment.config.min_workers
        if isinstance(deployment, OnDemandDeployment):
            workers = 0
        elif not workers:
            deployment.state = ModelState.READY
        elif registration.synchronous:
            self._start_synchronously(deployment, workers)
        else:
            self._start(deployment, workers)
            threading.Thread(target=_settle, args=(deployment,), name=f"load-{config.name}", daemon=True).start()
        self.on_change()
        return config.name, config.version, workers

    def begin(self, registration: Registration, restored: Registered | None = None) -> Served:
        """Registers at the server's start and begins to start workers, with `restored`'s numbers where it was in a snapshot.

        A worker that fails to load is tried again with back-off, and the model stays (TorchServe).
        """
        deployment = self._enter(registration, at_startup=True, restored=restored)
        if isinstance(deployment, OnDemandDeployment):
            return deployment
        if deployment.config.min_workers:
            self._start(deployment, deployment.config.min_workers)
        else:
            deployment.state = ModelState.READY
        return deployment

    def _enter(self, registration: Registration, *, at_startup: bool = False, restored: Registered | None = None) -> Served:
        """Makes the version known, without workers yet; the first version of a model becomes its default."""
        config = self.store.resolve(registration, at_startup=at_startup, restored=restored)
        try:
            with self._turn:
                if self._closed:
                    raise Draining("the server is stopping and registers no more models")
                return self._add(config)
        except BaseException:
            self.store.release(config)
            raise

    def _add(self, config: ModelConfig) -> Served:
        try:
            serving = self.registry.record(config.name).serving
        except ModelNotFound:
            serving = {}
        if config.version in serving:
            raise AlreadyRegistered(config.name, config.version)
        on_demand, options = config.on_demand, self.options
        deployment: Served = OnDemandDeployment(config, options) if on_demand else deployment_of(config, options)
        self.registry.put(deployment, default=not serving)
        return deployment

    def _start(self, deployment: WorkerDeployment, workers: int) -> None:
        """The version is gone again where its workers have no place on this machine."""
        try:
            deployment.start(workers, retry=True)
        except BaseException:
            self._remove(deployment)
            raise

    def _start_synchronously(self, deployment: WorkerDeployment, workers: int) -> None:
        """The version is gone again where a worker cannot load it."""
        config = deployment.config
        try:
            deployment.start(workers)
            deployment.wait_ready()
        except LoadFailed as error:
            self._remove(deployment)
            raise LoadFailed(str(error), error.out_of_memory, config.name, config.version) from None
        except BaseException:
            self._remove(deployment)
            raise

    def close(self) -> None:
        """Nothing is registered any more; called before the models are closed, so that none is left running."""
        with self._turn:
            self._closed = True

    # -- scale -------------------------------------------------------------------------------------------------------------

    def scale(self, model: str, version: str | None, min_workers: int, max_workers: int, synchronous: bool) -> int | None:
        """Brings the number of workers between the two; a least of 0 takes all away, whatever the most is (TorchServe).

        Returns the number of workers where it waited for them, else None.
        Synchronous: waits until they are, LoadFailed with the reason if they cannot be.
        """
        deployment = self._workers_of(model, version)
        with self._turn:
            now = deployment.wanted_workers()
            wanted = min(max(now, min_workers), max_workers) if min_workers else 0
            deployment.scale(wanted, retry=True)  # InvalidConfig where they have no place; then nothing has changed
            deployment.min_workers, deployment.max_workers = min_workers, max_workers
        self.on_change()
        if synchronous:
            deployment.wait_ready()
            return wanted
        if deployment.state is not ModelState.READY:
            threading.Thread(target=_settle, args=(deployment,), name=f"scale-{model}", daemon=True).start()
        return None

    def _workers_of(self, model: str, version: str | None) -> Served:
        record = self.registry.record(model)
        wanted = version or record.default_version
        if wanted is None or wanted not in record.serving:
            raise VersionNotFound(model, wanted or "")
        deployment = record.serving[wanted]
        if not isinstance(deployment, WorkerDeployment | OnDemandDeployment):
            raise Unsupported(f"model '{model}' is an ensemble: scale the models of its steps")
        return deployment

    # -- versions ----------------------------------------------------------------------------------------------------------

    def set_default(self, model: str, version: str) -> None:
        """Names the version that answers when none is given; raises ModelNotFound or VersionNotFound."""
        with self._turn:  # else an unregistering in between would leave a model without versions behind
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

    def _remove(self, deployment: WorkerDeployment) -> None:
        name, version = deployment.config.name, deployment.config.version
        with self._turn:
            if self._serves(name, version) is not deployment:
                return  # another call has unregistered it meanwhile, and closes it
            self.registry.take(name, version, None)
        self._close(deployment, 0.0)

    def _serves(self, model: str, version: str) -> object:
        try:
            return self.registry.record(model).serving.get(version)
        except ModelNotFound:
            return None

    def _close(self, deployment: Served, timeout: float) -> None:
        deployment.close(timeout)
        self.store.release(deployment.config)


def _settle(deployment: Served) -> None:
    """Waits for the workers of an asynchronous start and says how it went."""
    began = time.monotonic()
    try:
        deployment.wait_ready()
    except Draining:
        return  # unregistered meanwhile, or the server stops
    except LoadFailed as error:
        log.error("model '%s' version %s: %s", deployment.config.name, deployment.config.version, error)
        return
    log.info(
        "model '%s' version %s is ready after %.1f s",
        deployment.config.name,
        deployment.config.version,
        time.monotonic() - began,
    )
