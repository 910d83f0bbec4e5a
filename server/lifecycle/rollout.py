"""Bringing the served versions of a model to a new set of configurations without a request that fails.

New deployments start beside whatever serves; only when all of them are ready do requests go to them, and what they replace
answers what it had accepted and ends. A version whose files and configuration are the same goes on as it is, with more or
fewer workers where only that changed (Triton updates `instance_group` and `version_policy` in place).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...codecs.own import with_source
from ...core.errors import Draining, InvalidConfig, JitneyError, LoadFailed
from ...core.model_config import InstanceGroup, ModelConfig
from ..process import cores
from ..repository.triton.layout import check_file
from ..repository.triton.stamps import version_stamp
from ..serving.deployment import Deployment, ModelState, Options
from ..serving.ensemble import EnsembleDeployment, Models
from ..serving.on_demand import OnDemandDeployment, deployment_of
from ..serving.registry import Registry
from ..serving.worker_deployment import WorkerDeployment
from ..workers import placement

#: Seconds that a replaced or unloaded version may take to answer what it had accepted.
DRAIN_SECONDS = 30.0

#: Why a load that an unload ended has failed.
GIVEN_UP = "it was unloaded before it was ready"

Settled = Callable[[str, str | None], None]
"""Called as settled(version, reason or None when ready)."""


class Rollout:
    """Threads: any, one at a time for each model; `close` at any time."""

    def __init__(self, registry: Registry, models: Models, options: Options) -> None:
        self.registry, self.models, self.options = registry, models, options
        self._lock = threading.Lock()
        self._loading: set[Deployment] = set()  # those that no request is sent to yet
        self._growing: dict[WorkerDeployment, int] = {}  # those that wait for more workers, and how many they had
        self._unloading: list[tuple[str, list[str]]] = []  # models that unloads wait for, and the versions given up for them
        self._closed = False

    def close(self) -> None:
        """Gives up what is loading, however long that would have taken; from now on nothing is loaded."""
        with self._lock:
            self._closed = True
            loading = list(self._loading)
        for deployment in loading:
            deployment.close(0.0, reason="the server is stopping")

    @contextmanager
    def giving_up(self, model: str) -> Iterator[list[str]]:
        """While it lasts, every load of a model fails, however far it has come; versions that are growing stay as they were.

        Yields the versions that were ended, as they become more.
        """
        versions: list[str] = []
        with self._lock:
            self._unloading.append((model, versions))
            loading = [deployment for deployment in self._loading if deployment.config.name == model]
            growing = [
                (deployment, before) for deployment, before in self._growing.items() if deployment.config.name == model
            ]
            versions += [deployment.config.version for deployment in loading]
        try:
            for deployment in loading:
                deployment.close(0.0, reason=GIVEN_UP)
            for grown, before in growing:
                grown.scale(before)
            yield versions
        finally:
            with self._lock:
                self._unloading = [entry for entry in self._unloading if entry[1] is not versions]

    def serving(self, model: str) -> Mapping[str, Deployment]:
        return self.registry.serving(model)

    def replace(self, model: str, configs: Sequence[ModelConfig], *, afresh: bool, settled: Settled) -> None:
        """Serves exactly `configs`; raises LoadFailed with every version's reason, and then what served goes on serving.

        Where nothing serves yet, the versions that became ready do, whatever happened to the others. `afresh`: also
        versions that did not change are loaded anew.
        """
        serving = self.serving(model)
        _refuse_archives(configs, serving)
        kept = [] if afresh else [config for config in configs if _same_but_for_size(serving.get(config.version), config)]
        started = self._start([config for config in configs if config not in kept])
        try:
            failures = self._settle(started, settled) | self._resize(model, kept, settled)
            ready = [deployment for deployment in started if deployment.config.version not in failures]
            if failures and serving:
                self._withdraw(ready, "another version of the same load failed")
            else:
                self._switch(model, ready, {config.version for config in configs})
        except BaseException as error:
            self._withdraw(started, f"the load failed: {error}")
            raise
        finally:
            self._over(started)
        if failures:
            raise LoadFailed(_failure_text(model, failures))

    def _start(self, configs: Sequence[ModelConfig]) -> list[Deployment]:
        started: list[Deployment] = []
        try:
            for config in configs:
                started.append(self._deployment(config))
                self._begun(started[-1])
                if config.version not in self.serving(config.name):
                    self.registry.note(config.name, config.version, ModelState.LOADING, "")
                    self.registry.forget(config.name, "")
        except BaseException:
            self._withdraw(started, "the load failed")
            self._over(started)
            raise
        return started

    def _withdraw(self, deployments: Sequence[Deployment], reason: str) -> None:
        """Ends deployments that no request is sent to, after something else failed."""
        for deployment in deployments:
            if self.serving(deployment.config.name).get(deployment.config.version) is not deployment:
                deployment.close(0.0, reason=reason)
                self._note_failure(deployment.config, reason)

    def _begun(self, deployment: Deployment) -> None:
        with self._lock:
            if self._closed:
                raise Draining("the server is stopping and loads no more models")
            model, version = deployment.config.name, deployment.config.version
            for unloaded in self._unloads(model):
                unloaded.append(version)
            if self._unloads(model):
                raise LoadFailed(_failure_text(model, {version: f"given up: {GIVEN_UP}"}))
            self._loading.add(deployment)

    def _unloads(self, model: str) -> list[list[str]]:
        """For each unload that waits for this model's loads to end, the versions given up; call it with the lock held."""
        return [versions for name, versions in self._unloading if name == model]

    def _over(self, deployments: Sequence[Deployment]) -> None:
        with self._lock:
            self._loading.difference_update(deployments)

    def _deployment(self, config: ModelConfig) -> Deployment:
        config = with_source(config)
        if config.backend == "ensemble":
            ensemble = EnsembleDeployment(config, self.models)
            ensemble.load_codec()
            ensemble.stamp = version_stamp(config)
            return ensemble
        check_file(config)
        if config.on_demand:
            waiting = OnDemandDeployment(config, self.options)
            waiting.load_codec()
            waiting.stamp = version_stamp(config)
            return waiting
        workers = placement.declared(config, self._gpus())
        deployment = deployment_of(config, self.options)
        deployment.stamp = version_stamp(config)
        try:
            deployment.load_codec()
            deployment.start(workers)
        except BaseException:
            deployment.close(0.0)
            raise
        return deployment

    def _gpus(self) -> Sequence[int]:
        return cores.gpus() if self.options.gpus is None else self.options.gpus

    def _settle(self, deployments: Sequence[Deployment], settled: Settled) -> dict[str, str]:
        """Waits until each version is ready or has failed; the failed ones by version, with their reasons."""
        failures: dict[str, str] = {}
        for deployment in deployments:
            config = deployment.config
            try:
                deployment.wait_ready()
            except JitneyError as error:
                given_up = isinstance(error, Draining) and deployment.reason
                failures[config.version] = f"given up: {deployment.reason}" if given_up else str(error)
                deployment.close(0.0)
                self._note_failure(config, failures[config.version])
            if not deployment.on_demand:  # which has not been loaded yet
                settled(config.version, failures.get(config.version))
        return failures

    def _resize(self, model: str, configs: Sequence[ModelConfig], settled: Settled) -> dict[str, str]:
        """Gives versions that go on the number of workers that they should have now; those that cannot keep theirs."""
        failures: dict[str, str] = {}
        for config in configs:
            deployment = self.serving(model)[config.version]
            before = deployment.wanted_workers()
            if isinstance(deployment, OnDemandDeployment):
                deployment.reconfigure(config)
            elif isinstance(deployment, WorkerDeployment) and before != (now := placement.declared(config, self._gpus())):
                try:
                    self._grow(deployment, before, now)
                except JitneyError as error:
                    failures[config.version] = str(error)
                    deployment.scale(before)
            if config.version not in failures:
                deployment.config = config
            settled(config.version, failures.get(config.version))
        return failures

    def _grow(self, deployment: WorkerDeployment, before: int, now: int) -> None:
        """Returns when it has `now` workers; raises the reason where they could not be started, or were given up."""
        with self._lock:
            if self._unloads(deployment.config.name):
                raise LoadFailed(f"given up: {GIVEN_UP}")
            self._growing[deployment] = before
        try:
            deployment.scale(now)
            deployment.pool.wait_ready()  # the deployment's own would call it unavailable
        finally:
            with self._lock:
                del self._growing[deployment]
        if deployment.wanted_workers() != now:
            raise LoadFailed(f"given up: {GIVEN_UP}")

    def _note_failure(self, config: ModelConfig, reason: str) -> None:
        if config.version not in self.serving(config.name):
            self.registry.note(config.name, config.version, ModelState.UNAVAILABLE, reason)

    def _switch(self, model: str, deployments: Sequence[Deployment], wanted: set[str]) -> None:
        """Routes to the new deployments and closes what they replace, and versions that are no longer wanted.

        Versions that were registered as archives are not the repository's, and stay.
        """
        replaced = [self.registry.put(deployment) for deployment in deployments]
        if self.serving(model):
            gone = [v for v, old in self.serving(model).items() if v not in wanted and not old.config.is_archive]
            replaced += [self.registry.take(model, version) for version in gone]
            self.registry.forget(model, "")
        close_aside([old for old in replaced if old is not None])


def _refuse_archives(configs: Sequence[ModelConfig], serving: Mapping[str, Deployment]) -> None:
    """InvalidConfig where a version of the repository has the name and number of one that was registered as an archive."""
    for config in configs:
        old = serving.get(config.version)
        if old is not None and old.config.is_archive:
            raise InvalidConfig(
                f"version {config.version} of model '{config.name}' is served from an archive already; give one of them "
                "another name or version, or unregister the archive"
            )


def close_aside(deployments: Sequence[Deployment], afterwards: Callable[[], None] | None = None) -> None:
    """Lets old versions answer what they had accepted without keeping the caller waiting, then does what comes afterwards."""

    def close() -> None:
        for deployment in deployments:
            deployment.close(DRAIN_SECONDS)
        if afterwards is not None:
            afterwards()

    if deployments:
        threading.Thread(target=close, name=f"close-{deployments[0].config.name}", daemon=True).start()
    elif afterwards is not None:
        afterwards()


def _same_but_for_size(old: Deployment | None, new: ModelConfig) -> bool:
    """Whether a served version is what `new` asks for, but perhaps for the number of its workers."""
    if old is None or not old.ready or old.stamp is None or old.stamp != version_stamp(new):
        return False
    return _without_size(old.config) == _without_size(new) and _resizable(old.config, new)


def _without_size(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, instance_groups=(), config_json={}, codec_source=b"", min_workers=0, max_workers=0)


def _resizable(old: ModelConfig, new: ModelConfig) -> bool:
    """Whether workers can be added and taken away: the same places, or one group on one device with another count."""
    if old.instance_groups == new.instance_groups:
        return True
    pair = (*old.instance_groups, *new.instance_groups)
    return len(pair) == 2 and _place(pair[0]) == _place(pair[1]) and len(pair[0].gpus) <= 1


def _place(group: InstanceGroup) -> InstanceGroup:
    return dataclasses.replace(group, count=1)


def _failure_text(model: str, failures: Mapping[str, str]) -> str:
    reasons = "".join(f"version {version} is at UNAVAILABLE state: Internal: {why};\n" for version, why in failures.items())
    return f"load failed for model '{model}': {reasons}"
