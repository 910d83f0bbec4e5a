"""Loading and unloading models of a Triton-style repository: at start, over the repository API, and by polling.

A load reads the model's folder, starts the new version's workers beside whatever serves, and switches only when they are ready;
what it replaces answers what it had accepted and ends. A load that fails leaves the old version serving.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .deployment import Deployment, Options, State, WorkerDeployment
from .ensemble import EnsembleDeployment, Models
from .errors import InvalidConfig, JitneyError, LoadFailed, ModelNotFound, Unavailable
from .registry import Registry
from .repository import ensembles
from .repository.config import ModelConfig
from .repository.triton import TritonRepository
from .workers import cores, placement

log = logging.getLogger(__name__)

#: Seconds that a replaced or unloaded version may take to answer what it had accepted.
DRAIN_SECONDS = 30.0
LOAD_THREADS = 4

Report = Callable[[str, str, str | None, float], None]
"""Called as report(model, version, reason or None when ready, seconds) for each version that settled."""


@dataclass(frozen=True)
class _Startup:
    """One loading of everything: who is told, and which models have settled, so that none is tried twice."""

    report: Report
    settled: set[str] = field(default_factory=set)
    told: set[tuple[str, str]] = field(default_factory=set)

    def tell(self, model: str, version: str, reason: str | None, began: float) -> None:
        """Reports a version once, whoever loaded it."""
        if (model, version) not in self.told:
            self.told.add((model, version))
            self.report(model, version, reason, time.monotonic() - began)


class ControlDisabled(Unavailable):
    """Loading and unloading over the API needs the control mode "explicit"."""


class ModelControl:
    """The models of one or more repository folders. Threads: any; each model has a lock, so that its loads take turns."""

    def __init__(
        self, registry: Registry, repository: TritonRepository, models: Models, options: Options, mode: str = "none"
    ) -> None:
        self.registry, self.repository, self.models = registry, repository, models
        self.options, self.mode = options, mode
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self._fingerprints: dict[str, Hashable] = {}
        self._asked: set[str] = set()  # models loaded for their own sake, not as a step of an ensemble
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None

    # -- verbs -----------------------------------------------------------------------------------------------------------

    def load_all(self, names: Sequence[str] | None, report: Report) -> None:
        """Loads the named models, or all, a few at a time; a model that fails is listed with its reason and reported."""
        wanted = list(names) if names is not None else self.repository.names()
        run = _Startup(report)

        def load(name: str) -> None:
            try:
                self._load(name, run=run)
            except JitneyError as error:
                log.debug("model '%s' was not loaded: %s", name, error)  # it has been reported

        with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load") as pool:
            list(pool.map(load, wanted))

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads or reloads one model over the API; returns when it serves, raises with the reason when it does not."""
        self._refuse_unless_explicit()
        self._load(model, config_json, files)

    def unload(self, model: str, dependents: bool = False) -> None:
        """Stops a model over the API: new requests are refused at once, accepted ones are answered, then its memory is free."""
        self._refuse_unless_explicit()
        steps = self._steps_only_of(model) if dependents else []
        for name in (model, *steps):
            self._unload(name)

    def _refuse_unless_explicit(self) -> None:
        if self.mode != "explicit":
            raise ControlDisabled("explicit model load / unload is not allowed if polling is enabled")

    def poll(self, seconds: float) -> None:
        """Starts the thread that rescans the folders every `seconds` (control mode "poll")."""
        self._poller = threading.Thread(target=self._poll_forever, args=(seconds,), name="repository-poll", daemon=True)
        self._poller.start()

    def close(self) -> None:
        self._stop.set()
        if self._poller is not None:
            self._poller.join()

    # -- how -------------------------------------------------------------------------------------------------------------

    def _lock(self, model: str) -> threading.Lock:
        with self._locks_lock:
            return self._locks.setdefault(model, threading.Lock())

    def _load(
        self,
        model: str,
        config_json: str | None = None,
        files: Mapping[str, bytes] | None = None,
        run: _Startup | None = None,
        path: tuple[str, ...] = (),
    ) -> None:
        """Loads a model, the models of an ensemble's steps before it. `path` are the ensembles that asked for it.

        No lock is held while other models are loaded, so that ensembles cannot wait for each other.
        """
        if model in path:
            raise InvalidConfig(f"ensembles depend on each other in a circle: {' -> '.join((*path, model))}")
        if not path:
            self._asked.add(model)
        if run is not None and model in run.settled:
            return
        began = time.monotonic()
        override = bool(config_json or files)
        try:
            fingerprint = self.repository.fingerprint(model)
            if not override and self._serves_unchanged(model, fingerprint):
                return
            configs = self.repository.read(model, config_json=config_json, files=files)
            configs = [self._connected(config, run, (*path, model)) for config in configs]
            with self._lock(model):
                if override or not self._serves_unchanged(model, fingerprint):
                    self._replace(model, configs, run, began)
                    self._fingerprints[model] = fingerprint  # also after an override, which a plain load keeps (Triton)
        except LoadFailed:
            raise
        except JitneyError as error:
            self._note_failure(model, "", str(error))
            if run is not None:
                run.tell(model, "", str(error), began)
            raise
        finally:
            if run is not None:
                run.settled.add(model)

    def _replace(self, model: str, configs: Sequence[ModelConfig], run: _Startup | None, began: float) -> None:
        """Starts new deployments beside whatever serves and switches to those that became ready."""
        deployments = self._start(configs)
        failures = self._settle(deployments, run, began)
        self._switch(model, [deployment for deployment in deployments if deployment.config.version not in failures])
        if failures:
            raise LoadFailed(_failure_text(model, failures))

    def _connected(self, config: ModelConfig, run: _Startup | None, path: tuple[str, ...]) -> ModelConfig:
        """An ensemble whose steps' models serve and fit together; any other model as it is."""
        if config.backend != "ensemble":
            return config
        steps = []
        for model, version in ensembles.dependencies(config):
            if not self._serving(model):
                self._load(model, run=run, path=path)
            try:
                steps.append(self.registry.deployment(model, version or None).config)
            except JitneyError:
                wanted = f"has no loaded version {version}" if version else "has no loaded version"
                raise InvalidConfig(f"ensemble '{config.name}' depends on '{model}' which {wanted}") from None
        return ensembles.connect(config, steps)

    def _serves_unchanged(self, model: str, fingerprint: Hashable) -> bool:
        try:
            serving = self.registry.record(model).serving
        except ModelNotFound:
            return False
        return bool(serving) and self._fingerprints.get(model) == fingerprint

    def _start(self, configs: Sequence[ModelConfig]) -> list[Deployment]:
        deployments = []
        for config in configs:
            if config.version not in self._serving(config.name):
                self.registry.note(config.name, config.version, State.LOADING, "")
            deployments.append(self._deployment(config))
        return deployments

    def _deployment(self, config: ModelConfig) -> Deployment:
        if config.backend == "ensemble":
            return EnsembleDeployment(config, self.models)
        deployment = WorkerDeployment(config, self.options)
        deployment.start(placement.declared(config, cores.gpus()))
        return deployment

    def _serving(self, model: str) -> Mapping[str, Deployment]:
        try:
            return self.registry.record(model).serving
        except ModelNotFound:
            return {}

    def _settle(self, deployments: Sequence[Deployment], run: _Startup | None, began: float) -> dict[str, str]:
        """Waits until each version is ready or has failed; the failed ones by version, with their reasons."""
        failures: dict[str, str] = {}
        for deployment in deployments:
            config = deployment.config
            try:
                deployment.wait_ready()
            except LoadFailed as error:
                failures[config.version] = str(error)
                deployment.close(0.0)
                self._note_failure(config.name, config.version, str(error))
            if run is not None:
                run.tell(config.name, config.version, failures.get(config.version), began)
        return failures

    def _note_failure(self, model: str, version: str, reason: str) -> None:
        if version not in self._serving(model):
            self.registry.note(model, version, State.UNAVAILABLE, reason)

    def _switch(self, model: str, deployments: Sequence[Deployment]) -> None:
        """Routes to the new deployments and closes what they replace, and versions that the policy no longer serves."""
        if not deployments:
            return
        replaced = [self.registry.put(deployment) for deployment in deployments]
        kept = {deployment.config.version for deployment in deployments}
        replaced += [self.registry.take(model, v) for v in self._serving(model) if v not in kept]
        self.registry.forget(model, "")
        for old in replaced:
            if old is not None:
                _close_aside(old)

    def _unload(self, model: str) -> None:
        with self._lock(model):
            self._fingerprints.pop(model, None)
            self._asked.discard(model)
            for version in self._serving(model):
                deployment = self.registry.take(model, version)
                if deployment is not None:
                    _close_aside(deployment)
        self.repository.release(model)

    def _steps_only_of(self, model: str) -> list[str]:
        """The models of an ensemble's steps that were loaded for its sake and that no other served ensemble uses (Triton)."""
        uses = {
            deployment.config.name: {name for name, _ in ensembles.dependencies(deployment.config)}
            for deployment in self.registry.deployments()
            if deployment.config.backend == "ensemble"
        }
        others: set[str] = set().union(*(used for name, used in uses.items() if name != model))
        return sorted(uses.get(model, set()) - others - self._asked)

    def _poll_forever(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            names = set(self.repository.names())
            for gone in set(self.registry.names()) - names:
                self._unload(gone)
            for name in sorted(names):
                if self.repository.fingerprint(name) == self._fingerprints.get(name):
                    continue
                try:
                    self._load(name)
                except JitneyError as error:
                    self._fingerprints[name] = self.repository.fingerprint(name)
                    log.error("model '%s' could not be reloaded: %s", name, error)


def _close_aside(deployment: Deployment) -> None:
    """Lets an old version answer what it had accepted without keeping the caller waiting."""
    threading.Thread(
        target=deployment.close, args=(DRAIN_SECONDS,), name=f"close-{deployment.config.name}", daemon=True
    ).start()


def _failure_text(model: str, failures: Mapping[str, str]) -> str:
    reasons = "".join(f"version {version} is at UNAVAILABLE state: Internal: {why};\n" for version, why in failures.items())
    return f"load failed for model '{model}': {reasons}"
