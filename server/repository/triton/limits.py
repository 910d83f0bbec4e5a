"""How long a model's workers may take: the parameters `response_timeout` and `startup_timeout` of a `config.pbtxt`.

The names and their meaning are TorchServe's; Triton has no such limits. Seconds, fractions allowed; 0 = no limit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ....core.model_config import ModelConfig
from .pbtxt import Source

log = logging.getLogger(__name__)

RESPONSE, STARTUP = "response_timeout", "startup_timeout"


@dataclass(frozen=True)
class Limits:
    """Seconds that a worker may be silent while it holds a batch, and that it may take to load the model; 0 = no limit."""

    response_s: float = 0.0
    startup_s: float = 0.0


NO_LIMITS = Limits()


def limited(config: ModelConfig, defaults: Limits, source: Source) -> ModelConfig:
    """The configuration with its own limits, or else with `defaults`. InvalidConfig where a value is no number of seconds."""
    if config.backend == "ensemble":
        for name in {RESPONSE, STARTUP} & config.parameters.keys():
            log.warning("ensemble '%s': parameter %s has no effect, set it for the models of its steps", config.name, name)
        return config
    return replace(
        config,
        response_timeout_s=seconds_of(config.parameters, RESPONSE, defaults.response_s, config.name, source),
        startup_timeout_s=seconds_of(config.parameters, STARTUP, defaults.startup_s, config.name, source),
    )


def seconds_of(
    parameters: Mapping[str, str], name: str, default: float, model: str, source: Source, zero: str = "no limit"
) -> float:
    """The parameter `name` as seconds; InvalidConfig says what `zero` seconds mean."""
    text = parameters.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        wanted = f"expected a number of seconds from 0 ({zero}), such as 30"
        raise source.error(f"parameter '{name}' of model '{model}' is '{text}': {wanted}", "parameters", f'"{name}"')
    return seconds
