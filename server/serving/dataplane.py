"""The verbs that every dialect calls: infer, predict, ready, describe, … A dialect parses, calls one of these, renders.

Nothing here knows HTTP, and no dialect knows queues, workers or files. Inference is answered through a `Call`; which models are
served is `lifecycle.control_plane.ControlPlane`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ...core.call import Call, Target
from ...core.errors import (
    Draining,
    JitneyError,
    ModelNotReady,
    VersionNotFound,
    WorkerTimeout,
)
from ...core.model_config import ModelConfig
from ...core.request import Request, Response
from ..ipc.arena import Arena
from ..metrics.statistics import ModelStatistics
from ..workers.status import WorkerStatus
from .deployment import Deployment, MakeRequest, ModelState, OnAnswer
from .on_demand import OnDemandDeployment
from .registry import Registry, version_order
from .validation import validate
from .worker_deployment import WorkerDeployment


@dataclass(frozen=True)
class Description:
    """One version of a model as TorchServe's describe shows it. `queue_capacity` 0 = unlimited."""

    config: ModelConfig
    default: bool
    min_workers: int
    max_workers: int
    workers: list[WorkerStatus]
    queue_capacity: int
    queued: int


class DataPlane:
    """What the server can do with its models: `InferencePlane`, health and description. Thread-safe; one for all listeners."""

    def __init__(self, registry: Registry, *, strict_readiness: bool = True) -> None:
        self.registry = registry
        self.strict_readiness = strict_readiness
        self.started = False
        self.stopping = False

    @property
    def state(self) -> int:
        """A number that is another one whenever it has changed which models are served, or how."""
        return self.registry.state

    # -- inference -------------------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        version: str | None,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        on_answer: OnAnswer | None = None,
    ) -> Call:
        """Validates a request's tensors and queues it. Raises at once for what is refused (InvalidTensor, QueueFull, …).

        Where the version is being replaced at this moment, its successor takes the request. `on_answer`: see `Call`.
        """

        def submit(deployment: Deployment) -> Call:
            request.rows = validate(deployment.config, request)
            return deployment.submit(request, priority=priority, timeout_us=timeout_us, on_answer=on_answer)

        return self._on_serving(model, version, submit)

    def rest(self, call: Call, rests: bool) -> None:
        """Asks that the model rests whose answers the client of this call does not read, or goes on."""
        config = call.config
        deployment = self.registry.serving(config.name).get(config.version) if config is not None else None
        if deployment is not None:
            deployment.rest(call, rests)

    def refuse_if_full(self, model: str, version: str | None) -> None:
        """Raises QueueFull where the model's queue would refuse any request: for requests that are costly to read."""
        self.registry.deployment(model, version).refuse_if_full()

    def _on_serving(self, model: str, version: str | None, submit: Callable[[Deployment], Call]) -> Call:
        deployment = self.registry.deployment(model, version)
        try:
            return submit(deployment)
        except Draining:
            return submit(self._successor(deployment, model, version))

    def _successor(self, deployment: Deployment, model: str, version: str | None) -> Deployment:
        """What serves in place of a deployment that has just said that it is stopping; raises that again where nothing does."""
        successor = self.registry.deployment(model, version)
        if successor is deployment:
            raise Draining(f"model '{model}' is stopping and accepts no new requests")
        return successor

    def predict(self, model: str, version: str | None, request: Request, on_answer: OnAnswer | None = None) -> Call:
        """Queues a TorchServe-style request: as it is for a handler, through the model's codec (in this thread) otherwise."""
        deployment = self.registry.deployment(model, version)
        try:
            return self._predict(deployment, request, on_answer)
        except Draining:
            return self._predict(self._successor(deployment, model, version), request, on_answer)

    def _predict(self, deployment: Deployment, request: Request, on_answer: OnAnswer | None) -> Call:
        if deployment.config.backend == "handler":
            return deployment.submit(request, on_answer=on_answer)
        if request.headers.get("explain") == "True" and isinstance(deployment, WorkerDeployment | OnDemandDeployment):
            return deployment.explainer().submit(request, on_answer=on_answer)
        deployment.refuse_without_workers()  # before decoding costs anything
        deployment.refuse_if_full()
        codec = deployment.codec
        tensors, encode = codec.read(request.parts, request.headers)
        decoded = Request(request.id, tensors)
        decoded.rows = validate(codec.expects(tensors), decoded)
        return deployment.submit(decoded, on_answer=on_answer, encode=encode)

    def step(self, model: str, version: str | None, make: MakeRequest, on_answer: OnAnswer, target: Target) -> Call:
        """Queues one step of an ensemble, made for the deployment that takes it; its answers are given to `on_answer`."""

        def submit(deployment: Deployment) -> Call:
            request = make(deployment)
            request.rows = validate(deployment.config, request)
            return deployment.submit(request, on_answer=on_answer, target=target)

        return self._on_serving(model, version, submit)

    def arena(self, model: str, version: str | None) -> Arena | None:
        """Where the model's inputs are, if it is served and has workers of its own."""
        try:
            return self.registry.deployment(model, version).arena
        except JitneyError:
            return None

    def customized_metadata(self, model: str, version: str | None) -> Any:
        """What the model's handler says of itself (`describe_handle`): a JSON object, or {} where it is none."""
        deployment = self.registry.deployment(model, version)
        if deployment.config.backend != "handler":
            return {}
        call = deployment.submit(Request(headers={"describe": "True"}), alone=True)
        try:
            response = call.result(deployment.config.response_timeout_s or None)
        except TimeoutError:
            call.cancel()
            raise WorkerTimeout(f"model '{model}' did not describe itself in time") from None
        return _object(response)

    # -- health ----------------------------------------------------------------------------------------------------------

    def live(self) -> bool:
        """Whether the process serves HTTP at all."""
        return not self.stopping

    def ready(self) -> bool:
        """Whether requests should be sent here: started, not draining and, if readiness is strict, every model ready.

        A version whose workers have all died is not ready until one has loaded the model again. One that was unloaded, or
        scaled to no workers, is no reason to send requests elsewhere; nor is one that loads on demand, also where its last load
        has failed.
        """
        if not self.started or self.stopping:
            return False
        if not self.strict_readiness:
            return True
        deployments = self.registry.deployments()
        on_demand = {(each.config.name, each.config.version) for each in deployments if each.on_demand}
        return all(
            entry.state == ModelState.READY or entry.reason == "unloaded" or (entry.name, entry.version) in on_demand
            for entry in self.registry.index()
        ) and not any(deployment.stranded for deployment in deployments)

    def model_ready(self, model: str, version: str | None = None) -> bool:
        """Whether this model can answer now; False, without an error, for unknown ones."""
        try:
            return self.registry.deployment(model, version).ready
        except JitneyError:
            return False

    def healthy(self) -> bool:
        """TorchServe's /ping: no model's default version lacks its minimum of healthy workers."""
        for _, record in self.registry.records():
            version = record.default_version
            if version is None:
                continue
            deployment = record.serving[version]
            if deployment.healthy_workers() < deployment.wanted_workers():
                return False
        return True

    # -- description -----------------------------------------------------------------------------------------------------

    def config(self, model: str, version: str | None = None) -> ModelConfig:
        """The configuration of a served version."""
        return self.registry.deployment(model, version).config

    def versions(self, model: str) -> list[str]:
        """The versions that serve, ascending."""
        return sorted(self.registry.record(model).serving, key=version_order)

    def statistics(self, model: str | None = None, version: str | None = None) -> list[ModelStatistics]:
        """Counters of all served versions, of one model's, or of one version."""
        if model is None:
            return [deployment.statistics.snapshot() for deployment in self.registry.deployments()]
        if version is not None:
            return [self.registry.deployment(model, version).statistics.snapshot()]
        serving = self.registry.record(model).serving
        if not serving:
            raise ModelNotReady(model, None, "it has no available versions")
        return [serving[v].statistics.snapshot() for v in sorted(serving, key=version_order)]

    def models(self) -> list[tuple[str, str]]:
        """Name and URL of every model's default version, sorted by name."""
        rows = []
        for name, record in self.registry.records():
            if record.default_version is not None:
                rows.append((name, record.serving[record.default_version].config.url))
        return rows

    def describe(self, model: str, version: str | None = None) -> list[Description]:
        """One version (the default where none is named), or every version for "all"."""
        record = self.registry.record(model)
        every = version == "all"
        wanted = sorted(record.serving, key=version_order) if every else [version or record.default_version or ""]
        for name in wanted:
            if name not in record.serving:
                raise VersionNotFound(model, name)
        return [_describe(record.serving[name], default=name == record.default_version) for name in wanted]

    # -- the end ---------------------------------------------------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Answers what was accepted, for at most `timeout` seconds in all, and ends every worker."""
        self.stopping = True
        deadline = time.monotonic() + timeout
        for deployment in self.registry.deployments():
            deployment.close(max(0.0, deadline - time.monotonic()), reason="the server is stopping")


def _describe(deployment: Deployment, *, default: bool) -> Description:
    return Description(
        config=deployment.config,
        default=default,
        min_workers=deployment.min_workers,
        max_workers=deployment.max_workers,
        workers=deployment.workers(),
        queue_capacity=deployment.config.batching.default_queue_policy.max_queue_size,
        queued=deployment.queued(),
    )


def _object(response: Response) -> Any:
    try:
        found = orjson.loads(response.body or b"{}")
    except orjson.JSONDecodeError:  # a text, a picture (TorchServe shows {} too)
        return {}
    return found if isinstance(found, dict) else {}
