"""When a model's workers are started: the parameters `load` and `idle_timeout_s` of a `config.pbtxt`.

Both are jitney's own. `load` is `at_start` (Triton's way) or `on_demand`: with the first request. `idle_timeout_s` is how long a
model that was loaded on demand stays without a request, in seconds; 0 = until memory runs short.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from ....core.model_config import ModelConfig
from .limits import seconds_of
from .pbtxt import Source

log = logging.getLogger(__name__)

LOAD, IDLE_TIMEOUT = "load", "idle_timeout_s"
WORDS = ("at_start", "on_demand")


@dataclass(frozen=True)
class Loading:
    """For models that say nothing of their own."""

    on_demand: bool = False
    idle_timeout_s: float = 0.0


AT_START = Loading()


def loading(config: ModelConfig, defaults: Loading, source: Source) -> ModelConfig:
    """The configuration with its own words on loading, or else with `defaults`. InvalidConfig where one is not understood."""
    parameters = config.parameters
    if config.backend == "ensemble":
        for name in {LOAD, IDLE_TIMEOUT} & parameters.keys():
            log.warning("ensemble '%s': parameter %s has no effect, set it for the models of its steps", config.name, name)
        return config
    word = parameters.get(LOAD, WORDS[defaults.on_demand])
    if word not in WORDS:
        text = f"parameter '{LOAD}' of model '{config.name}' is '{word}': expected {' or '.join(WORDS)}"
        raise source.error(text, "parameters", f'"{LOAD}"')
    idle = seconds_of(parameters, IDLE_TIMEOUT, defaults.idle_timeout_s, config.name, source, "until memory runs short")
    return replace(config, on_demand=word == "on_demand", idle_timeout_s=idle)
