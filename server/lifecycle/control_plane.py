"""`ControlPlane`: what changes which models are served, for the dialects' control routes and for models that ask for others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.errors import Unavailable, Unsupported
from ..serving.deployment import ModelState
from ..serving.registry import IndexEntry, Registry
from .dependents import Dependents

if TYPE_CHECKING:
    from .management import Management
    from .model_control import ModelControl


class ControlPlane:
    """Both ways in which models come and go; which of them there are, the server's start decides. Thread-safe.

    archives    TorchServe's verbs: register, scale, set_default, unregister. Unsupported where there are none
    repository  Triton's verbs: load, unload. Unavailable where no repository is served
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._dependents = Dependents(registry)
        self._archives: Management | None = None
        self._repository: ModelControl | None = None

    def attach(self, *, archives: Management | None = None, repository: ModelControl | None = None) -> None:
        """Gives control its ways; called while the server is built, before a request can ask."""
        self._archives = archives or self._archives
        self._repository = repository or self._repository

    @property
    def archives(self) -> Management:
        if self._archives is None:
            raise Unsupported("this server was started without a management of models")
        return self._archives

    @property
    def repository(self) -> ModelControl:
        if self._repository is None:
            raise Unavailable(
                "no model repository is served; start with --model-repository DIR --model-control-mode=explicit"
            )
        return self._repository

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """The repository index: every version known, with its state and the reason where it does not serve.

        Models that were never loaded are listed by their names alone, and an ensemble does not serve while a step's model does
        not (Triton).
        """
        found = [self._with_steps(entry) for entry in self._registry.index()]
        if ready_only:
            return [entry for entry in found if entry.state == ModelState.READY]
        known = set(self._registry.names())
        found += [IndexEntry(name) for name in self._repository.names() if name not in known] if self._repository else []
        return sorted(found, key=lambda entry: entry.name)

    def _with_steps(self, entry: IndexEntry) -> IndexEntry:
        """The row of an ensemble that serves, as unavailable while a model that it needs does not serve; others as they are."""
        deployment = self._registry.serving(entry.name).get(entry.version)
        lacking = self._dependents.missing([deployment.config]) if deployment is not None else []
        if entry.state != ModelState.READY or not lacking:
            return entry
        return replace(entry, state=str(ModelState.UNAVAILABLE), reason=f"the model '{lacking[0]}' of a step does not serve")

    def close(self) -> None:
        """Nothing is registered or loaded any more, and what is loading is given up."""
        for way in (self._archives, self._repository):
            if way is not None:
                way.close()
