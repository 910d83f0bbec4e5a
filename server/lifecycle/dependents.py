"""Which ensembles use a model, and which of them wait until their steps' models serve and fit together.

As Triton does, an ensemble that stopped serving because a step's model was loaded anew and did not fit, or that could not be
loaded for a step's sake, comes back with the load that makes its steps serve and fit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence, Set

from ...core.errors import InvalidConfig, JitneyError
from ...core.model_config import ModelConfig
from ..repository.triton import ensembles
from ..serving.deployment import Deployment
from ..serving.registry import Registry


class Dependents:
    """The ensembles of a registry and those that wait. Threads: any."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._waiting: dict[str, frozenset[str]] = {}  # ensembles -> the models of their steps
        self._lock = threading.Lock()

    def connected(self, config: ModelConfig) -> ModelConfig:
        """An ensemble whose steps' models serve and fit together, else InvalidConfig; any other model as it is."""
        if config.backend != "ensemble":
            return config
        steps = []
        for model, version in ensembles.dependencies(config):
            try:
                steps.append(self.registry.deployment(model, version or None).config)
            except JitneyError:
                wanted = f"has no loaded version {version}" if version else "has no loaded version"
                raise InvalidConfig(f"ensemble '{config.name}' depends on '{model}' which {wanted}") from None
        return ensembles.connect(config, steps)

    def using(self, model: str) -> list[Deployment]:
        """The served ensembles with a step of this model."""
        return [deployment for deployment in self.registry.ensembles() if model in _models(deployment.config)]

    def complete(self, model: str) -> bool:
        """Whether what serves of a model has all that its steps need, and those of their steps; True for what is no ensemble."""
        return not self.missing([deployment.config for deployment in self.registry.serving(model).values()])

    def missing(self, configs: Sequence[ModelConfig]) -> list[str]:
        """The models of steps of which nothing serves, or which miss models themselves; in the order of the steps."""
        named = [model for config in configs for model, _ in ensembles.dependencies(config)]
        return [model for model in dict.fromkeys(named) if not (self.registry.serving(model) and self.complete(model))]

    def steps_only_of(self, model: str, asked: Set[str]) -> list[str]:
        """The models of an ensemble's steps that nobody asked for and that no other served ensemble uses (Triton)."""
        uses = {deployment.config.name: _models(deployment.config) for deployment in self.registry.ensembles()}
        others: set[str] = set().union(*(used for name, used in uses.items() if name != model))
        return sorted(uses.get(model, frozenset()) - others - asked)

    # -- waiting ---------------------------------------------------------------------------------------------------------

    def wait(self, model: str, configs: Sequence[ModelConfig]) -> None:
        """Notes that an ensemble does not serve for its steps' sake; nothing for a model that is none."""
        models = frozenset(step for config in configs for step in _models(config))
        if models:
            with self._lock:
                self._waiting[model] = models

    def no_longer_waits(self, model: str) -> None:
        """It is loaded now, or nobody wants it any more."""
        with self._lock:
            self._waiting.pop(model, None)

    def waiting_for(self, model: str) -> list[str]:
        """The ensembles that wait for this model and for no other that does not serve."""
        with self._lock:
            waiting = [(name, models) for name, models in self._waiting.items() if model in models]
        return sorted(name for name, models in waiting if all(map(self.registry.serving, models)))


def _models(config: ModelConfig) -> frozenset[str]:
    return frozenset(model for model, _ in ensembles.dependencies(config))
