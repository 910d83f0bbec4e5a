"""A data plane without queues and processes: it validates and counts like the real one and computes in the calling thread.

Models are functions from a request to responses; an error that one raises ends the call. Dialects run against it over real
HTTP, so that what they parse and render is real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from jitney.core.call import Call
from jitney.core.errors import JitneyError, ModelNotFound, ModelNotReady, VersionNotFound
from jitney.core.model_config import ModelConfig
from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.metrics.statistics import ModelStatistics, Statistics
from jitney.server.serving.validation import validate

Model = Callable[[Request], Iterable[Response]]


@dataclass(frozen=True)
class IndexEntry:
    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


@dataclass
class Served:
    config: ModelConfig
    run: Model | None
    statistics: Statistics


@dataclass
class FakeDataPlane:
    """`run` None: the call is accepted and never answered. `failures` maps models that do not serve to their reasons."""

    served: dict[str, dict[str, Served]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    options: list[tuple[int, int]] = field(default_factory=list)
    loads: list[tuple[str, str | None, Mapping[str, bytes] | None]] = field(default_factory=list)
    unloads: list[tuple[str, bool]] = field(default_factory=list)
    control_error: JitneyError | None = None

    @property
    def repository(self) -> FakeDataPlane:
        """It is its own control plane too."""
        return self

    def add(self, config: ModelConfig, run: Model | None) -> None:
        self.served.setdefault(config.name, {})[config.version] = Served(config, run, Statistics(config))

    def _find(self, model: str, version: str | None) -> Served:
        if model in self.failures:
            raise ModelNotReady(model, version, self.failures[model])
        if model not in self.served:
            raise ModelNotFound(model)
        versions = self.served[model]
        wanted = version or max(versions)
        if wanted not in versions:
            raise VersionNotFound(model, wanted)
        return versions[wanted]

    def refuse_if_full(self, model: str, version: str | None) -> None:
        self._find(model, version)

    def infer(
        self,
        model: str,
        version: str | None,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        on_answer: Callable[[Response | JitneyError], None] | None = None,
    ) -> Call:
        found = self._find(model, version)
        request.rows = validate(found.config, request)
        self.options.append((priority, timeout_us))
        call = Call(request, on_answer=on_answer)
        self.calls.append(call)
        call.times.dispatched = call.times.arrived
        if found.run is None:
            return call
        try:
            for response in found.run(request):
                call.answer(response)
        except JitneyError as error:
            call.fail(error)
        found.statistics.batch(Executed([call]))
        return call

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return not self.failures

    def model_ready(self, model: str, version: str | None = None) -> bool:
        try:
            self._find(model, version)
        except JitneyError:
            return False
        return True

    def config(self, model: str, version: str | None = None) -> ModelConfig:
        return self._find(model, version).config

    def versions(self, model: str) -> list[str]:
        return sorted(self.served[model])

    def statistics(self, model: str | None = None, version: str | None = None) -> list[ModelStatistics]:
        if model is not None:
            return [self._find(model, version).statistics.snapshot()]
        return [served.statistics.snapshot() for versions in self.served.values() for served in versions.values()]

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        rows = [IndexEntry(name, version, "READY") for name, versions in self.served.items() for version in versions]
        if not ready_only:
            rows += [IndexEntry(name, "1", "UNAVAILABLE", reason) for name, reason in self.failures.items()]
        return sorted(rows, key=lambda row: (row.name, row.version))

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        if self.control_error is not None:
            raise self.control_error
        self.loads.append((model, config_json, files))

    def unload(self, model: str, dependents: bool = False) -> None:
        if self.control_error is not None:
            raise self.control_error
        self.unloads.append((model, dependents))


@dataclass
class Executed:
    calls: list[Call]


def identity(renamed: Mapping[str, str]) -> Model:
    """Gives each input back under the name that `renamed` has for it, in the order of `renamed`."""

    def run(request: Request) -> Iterable[Response]:
        given = {tensor.name: tensor for tensor in request.tensors}
        tensors = [
            Tensor(output, given[name].datatype, given[name].shape, bytes(given[name].data))
            for name, output in renamed.items()
            if name in given
        ]
        yield Response(tensors)

    return run
