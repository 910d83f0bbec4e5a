"""A data plane of TorchServe-style models that are functions of this process; registering and scaling change its books only.

Dialects run against it over real HTTP. `run` gets the request and yields responses, or raises; None never answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jitney.core.call import Call
from jitney.core.errors import DefaultVersionInUse, JitneyError, ModelNotFound, VersionNotFound
from jitney.core.model_config import ModelConfig
from jitney.core.request import Request, Response
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.serving.dataplane import Description

Run = Callable[[Request], Iterable[Response]]


@dataclass
class Archive:
    config: ModelConfig
    run: Run | None
    workers: list[Any] = field(default_factory=list)
    limits: tuple[int, int] = (1, 1)


@dataclass
class FakeTorchServe:
    """Implements the data plane's and the management's verbs that TorchServe's dialect calls."""

    served: dict[str, dict[str, Archive]] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    registered: list[Registration] = field(default_factory=list)
    scaled: list[tuple[str, str | None, int, int, bool]] = field(default_factory=list)
    refusal: Exception | None = None
    is_healthy: bool = True
    loading: set[str] = field(default_factory=set)
    running: int | None = None
    metadata: Any = None
    state: int = 0

    @property
    def archives(self) -> FakeTorchServe:
        """It is its own control plane too."""
        return self

    def add(self, name: str, run: Run | None, version: str = "1.0", **values: Any) -> None:
        config = ModelConfig(name=name, version=version, url=f"{name}.mar", **{"backend": "handler", **values})
        self.served.setdefault(name, {})[version] = Archive(config, run)
        self.defaults.setdefault(name, version)
        self.state += 1  # as the registry's

    def _find(self, model: str, version: str | None) -> Archive:
        if model not in self.served:
            raise ModelNotFound(model)
        wanted = version or self.defaults[model]
        if wanted not in self.served[model]:
            raise VersionNotFound(model, wanted)
        return self.served[model][wanted]

    # -- inference -------------------------------------------------------------------------------------------------------

    def predict(
        self,
        model: str,
        version: str | None,
        request: Request,
        on_answer: Callable[[Response | JitneyError], None] | None = None,
    ) -> Call:
        archive = self._find(model, version)
        if self.refusal is not None:
            raise self.refusal
        call = Call(request, on_answer=on_answer)
        call.times.dispatched = call.times.arrived + 3_000_000
        self.calls.append(call)
        if archive.run is not None:
            try:
                for response in archive.run(request):
                    call.answer(response)
            except JitneyError as error:
                call.fail(error)
        return call

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return True

    def model_ready(self, model: str, version: str | None = None) -> bool:
        return model in self.served and model not in self.loading

    def healthy(self) -> bool:
        return self.is_healthy

    # -- description -----------------------------------------------------------------------------------------------------

    def config(self, model: str, version: str | None = None) -> ModelConfig:
        return self._find(model, version).config

    def models(self) -> list[tuple[str, str]]:
        return [(name, self._find(name, None).config.url) for name in sorted(self.served)]

    def describe(self, model: str, version: str | None = None) -> list[Description]:
        self._find(model, None)
        found = list(self.served[model].values()) if version == "all" else [self._find(model, version)]
        return [
            Description(archive.config, archive is self._find(model, None), *archive.limits, archive.workers, 100, 3)
            for archive in found
        ]

    def customized_metadata(self, model: str, version: str | None) -> Any:
        if self.refusal is not None:
            raise self.refusal
        return self.metadata

    # -- control ---------------------------------------------------------------------------------------------------------

    def register(self, spec: Registration) -> tuple[str, str, int]:
        if self.refusal is not None:
            raise self.refusal
        self.registered.append(spec)
        return spec.model_name or "archive", "1.0", spec.initial_workers or 0

    def scale(self, model: str, version: str | None, min_workers: int, max_workers: int, synchronous: bool) -> int | None:
        self._find(model, version)
        self.scaled.append((model, version, min_workers, max_workers, synchronous))
        return (min_workers if self.running is None else self.running) if synchronous else None

    def set_default(self, model: str, version: str) -> None:
        self._find(model, version)
        self.defaults[model] = version

    def unregister(self, model: str, version: str | None) -> None:
        archive = self._find(model, version)
        if archive is self._find(model, None) and len(self.served[model]) > 1:
            raise DefaultVersionInUse(model)
        del self.served[model][archive.config.version]
        if not self.served[model]:
            del self.served[model]


def echo(request: Request) -> Iterable[Response]:
    """Answers with the first part's bytes."""
    yield Response(body=bytes(request.parts[0].data) if request.parts else b"")
