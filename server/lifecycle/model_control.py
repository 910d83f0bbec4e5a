"""Loading and unloading models of a Triton-style repository: at start, over the repository API, and by polling.

A load reads the model's folder, starts the new version's workers beside whatever serves, and switches only when they are ready;
what it replaces answers what it had accepted and ends. A load that fails leaves the old version serving.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from ...core.errors import InvalidConfig, JitneyError, LoadFailed, ModelNotFound, StepsUnfit, Unavailable
from ...core.model_config import ModelConfig
from ..repository.triton.repository import TritonRepository
from ..serving.deployment import ModelState, Options
from ..serving.ensemble import Models
from ..serving.on_demand import OnDemandDeployment
from ..serving.registry import Record, Registry
from .dependents import Dependents
from .poller import Poller
from .rollout import Rollout, close_aside

log = logging.getLogger(__name__)

LOAD_THREADS = 4

#: Stands for the files of a model that came with a load; no folder looks like it.
_UPLOADED = object()

Report = Callable[[str, str, str | None, float], None]
"""Called as report(model, version, reason or None when ready, seconds) for each version that settled."""


def _untold(version: str, reason: str | None) -> None:
    """Where the caller learns from the load itself how it went."""


@dataclass(frozen=True)
class _Startup:
    """One loading of everything: who is told, and which models have settled, so that none is tried twice."""

    report: Report
    settled: set[str] = field(default_factory=set)
    told: set[tuple[str, str]] = field(default_factory=set)

    def tell(self, model: str, began: float, version: str, reason: str | None) -> None:
        """Reports a version once, whichever thread loaded it."""
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
        self._dependents = Dependents(registry)
        self._rollout = Rollout(registry, models, options)
        self._poller = Poller(repository, self)

    # -- verbs -----------------------------------------------------------------------------------------------------------

    def load_all(self, names: Sequence[str] | None, report: Report) -> None:
        """Loads the named models, or all, a few at a time; a model that fails is listed with its reason and reported."""
        wanted = list(names) if names is not None else self.repository.names()
        run = _Startup(report)
        for name in wanted:
            if not self.registry.serving(name):
                self.registry.note(name, "", ModelState.LOADING, "")  # its turn may come late

        def load(name: str) -> None:
            try:
                self._ask(name, run=run)
            except JitneyError as error:
                log.debug("model '%s' was not loaded: %s", name, error)  # it has been reported
            finally:
                self._no_longer_waits(name)

        with self.repository.many(), ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load") as pool:
            list(pool.map(load, wanted))

    def _no_longer_waits(self, model: str) -> None:
        """Takes back that a model as a whole waits to be loaded, where nothing has done so."""
        reasons = dict(self.registry.records()).get(model, Record()).reasons
        if reasons.get("") == (ModelState.LOADING, ""):
            self.registry.forget(model, "")

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads or reloads one model over the API; returns when it serves, raises with the reason when it does not.

        Also one that loads on demand: it is loaded now.
        """
        self._refuse_unless_explicit()
        try:
            self._ask(model, config_json, files)
        except JitneyError as error:
            log.error("model '%s' could not be loaded: %s", model, error)
            raise
        for deployment in self.registry.serving(model).values():
            if isinstance(deployment, OnDemandDeployment):
                deployment.load_now()

    def unload(self, model: str, dependents: bool = False) -> None:
        """Stops a model over the API: new requests are refused at once, accepted ones are answered, then its memory is free."""
        self._refuse_unless_explicit()
        steps = self._dependents.steps_only_of(model, self._asked) if dependents else []
        for name in (model, *steps):
            self._unload(name)

    def _refuse_unless_explicit(self) -> None:
        if self.mode != "explicit":
            raise ControlDisabled(
                f"explicit model load / unload is not allowed if polling is enabled: the control mode is '{self.mode}'; to load "
                "and unload models over the API, start the server with --model-control-mode=explicit"
            )

    def poll(self, seconds: float) -> None:
        """Starts the thread that rescans the folders every `seconds` (control mode "poll")."""
        self._poller.start(seconds)

    def reload(self, model: str) -> None:
        """Loads a model whose files have changed."""
        self._ask(model)

    def remove(self, model: str) -> None:
        """Stops a model whose files are gone."""
        self._unload(model)

    def names(self) -> list[str]:
        """The models that the repository has, loaded or not."""
        return self.repository.names()

    def close(self) -> None:
        """Nothing is loaded any more, and what is loading is given up."""
        self._rollout.close()
        self._poller.close()

    # -- how -------------------------------------------------------------------------------------------------------------

    def _lock(self, model: str) -> threading.Lock:
        with self._locks_lock:
            return self._locks.setdefault(model, threading.Lock())

    def _ask(
        self,
        model: str,
        config_json: str | None = None,
        files: Mapping[str, bytes] | None = None,
        run: _Startup | None = None,
    ) -> None:
        """Loads a model for its own sake."""
        self._asked.add(model)
        self._load(model, config_json, files, run)

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
        fingerprint = self.repository.fingerprint(model)
        if fingerprint is not None:
            self._poller.seen[model] = fingerprint
        if run is not None and model in run.settled:
            return
        override = bool(config_json or files)
        settled = partial(run.tell, model, time.monotonic()) if run is not None else _untold
        try:
            if not override and self._serves_unchanged(model, fingerprint) and self._dependents.complete(model):
                return
            configs = self._read(model, config_json, files, run, (*path, model))
            with self._lock(model):
                if override or not self._serves_unchanged(model, fingerprint):
                    self._rollout.replace(model, configs, afresh=override, settled=settled)
                    # A plain load keeps an uploaded configuration, and replaces uploaded files by the folder's (Triton).
                    self._fingerprints[model] = _UPLOADED if files else fingerprint
            self._check_dependents(model)
        except LoadFailed:
            raise
        except ModelNotFound as error:
            self._asked.discard(model)
            settled("", f"{error}; the model repository has: {', '.join(self.names()) or 'no models'}")
            raise
        except (JitneyError, OSError) as error:
            self.registry.note_failure(model, str(error))
            settled("", str(error))
            if isinstance(error, OSError):
                raise LoadFailed(f"load failed for model '{model}': {error}") from error
            raise
        finally:
            if run is not None:
                run.settled.add(model)

    def _read(
        self,
        model: str,
        config_json: str | None,
        files: Mapping[str, bytes] | None,
        run: _Startup | None,
        path: tuple[str, ...],
    ) -> list[ModelConfig]:
        """The versions to be served. Of an ensemble, when the models of its steps are loaded."""
        configs = self.repository.read(model, config_json=config_json, files=files)
        self._dependents.no_longer_waits(model)
        try:
            self._load_steps(model, configs, run, path)
            return [self._dependents.connected(config) for config in configs]
        except InvalidConfig as error:
            self._dependents.wait(model, configs)
            raise StepsUnfit(str(error)) from error

    def _load_steps(
        self, ensemble: str, configs: Sequence[ModelConfig], run: _Startup | None, path: tuple[str, ...]
    ) -> None:
        """Loads the models of an ensemble's steps that do not serve."""
        for model in self._dependents.missing(configs):
            try:
                self._load(model, run=run, path=path)
            except JitneyError as error:
                raise InvalidConfig(
                    f"ensemble '{ensemble}' depends on '{model}' which has no loaded version: {error}"
                ) from error

    def _serves_unchanged(self, model: str, fingerprint: Hashable) -> bool:
        return bool(self.registry.serving(model)) and self._fingerprints.get(model) == fingerprint

    def _check_dependents(self, model: str) -> None:
        """Connects the ensembles that use a model to what it is now; one that does not fit any more stops serving (Triton).

        Those that waited for it are loaded.
        """
        for deployment in self._dependents.using(model):
            name, version = deployment.config.name, deployment.config.version
            with self._lock(name):
                if self.registry.serving(name).get(version) is not deployment:
                    continue  # it has just been loaded anew, or unloaded
                try:
                    deployment.config = self._dependents.connected(deployment.config)
                except InvalidConfig as error:
                    log.error("model '%s' does not serve any more: %s", name, error)
                    self._fingerprints.pop(name, None)
                    self._dependents.wait(name, [deployment.config])
                    self.registry.take(name, version, str(error))
                    close_aside([deployment])
            self._check_dependents(name)
        for name in self._dependents.waiting_for(model):
            try:
                self._load(name)
            except JitneyError as error:
                log.warning("model '%s' does not serve with the model '%s' that was loaded: %s", name, model, error)

    def _unload(self, model: str) -> None:
        self._dependents.no_longer_waits(model)
        if model not in self.registry.names() and model not in self._locks:  # a load that has just begun has the lock only
            return
        with self._instead_of_loading(model) as given_up:
            self._fingerprints.pop(model, None)
            self._asked.discard(model)
            taken = [self.registry.take(model, version) for version in self.registry.serving(model)]
            for version in given_up:
                self.registry.note(model, version, ModelState.UNAVAILABLE, "unloaded")
            remove_files = self.repository.release(model)
        close_aside([deployment for deployment in taken if deployment is not None], remove_files)

    @contextmanager
    def _instead_of_loading(self, model: str) -> Iterator[list[str]]:
        """Holds a model's lock, which loads that have it give up; yields the versions that were being loaded."""
        lock = self._lock(model)
        with self._rollout.giving_up(model) as versions:
            lock.acquire()
        try:
            yield versions
        finally:
            lock.release()
