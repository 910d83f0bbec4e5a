"""What a model's workers may take, and what follows when one crashes: parameters of a `config.pbtxt`.

`response_timeout` and `startup_timeout` have TorchServe's names and meaning; Triton has no such limits. Seconds, fractions
allowed; 0 = no limit. `max_in_flight` is how many batches a worker may hold, `retry_after_crash` a switch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ....core.model_config import TENSOR_BACKENDS, ModelConfig
from .pbtxt import Source

log = logging.getLogger(__name__)

RESPONSE, STARTUP, IN_FLIGHT, RETRY = "response_timeout", "startup_timeout", "max_in_flight", "retry_after_crash"
#: Batches that a worker may be told to hold at most.
MOST_IN_FLIGHT = 65536


@dataclass(frozen=True)
class Limits:
    """Seconds that a worker may be silent while it holds a batch, and that it may take to load the model; 0 = no limit."""

    response_s: float = 0.0
    startup_s: float = 0.0


NO_LIMITS = Limits()


def limited(config: ModelConfig, defaults: Limits, source: Source) -> ModelConfig:
    """The configuration with its own limits, or else with `defaults`. InvalidConfig where a value is no such number."""
    if config.backend == "ensemble":
        for name in {RESPONSE, STARTUP, IN_FLIGHT, RETRY} & config.parameters.keys():
            log.warning("ensemble '%s': parameter %s has no effect, set it for the models of its steps", config.name, name)
        return config
    return replace(
        config,
        response_timeout_s=seconds_of(config.parameters, RESPONSE, defaults.response_s, config.name, source),
        startup_timeout_s=seconds_of(config.parameters, STARTUP, defaults.startup_s, config.name, source),
        max_in_flight=_batches(config.parameters, config.name, source),
        retry_after_crash=_runs_again(config, source),
    )


def _runs_again(config: ModelConfig, source: Source) -> bool:
    """What is declared; else whether nothing is done that must not be done twice: by tensor backends without a state."""
    text = config.parameters.get(RETRY)
    if text is None:
        return config.backend in TENSOR_BACKENDS and config.sequence is None
    if text not in ("true", "false"):
        raise source.error(
            f"parameter '{RETRY}' of model '{config.name}' is '{text}': expected true or false", "parameters", f'"{RETRY}"'
        )
    middle = "a sequence" if config.sequence is not None else "a stream of answers" if config.decoupled else ""
    if text == "true" and middle:
        wanted = f"expected false, {middle} cannot go on in another worker"
        raise source.error(f"parameter '{RETRY}' of model '{config.name}' is 'true': {wanted}", "parameters", f'"{RETRY}"')
    return text == "true"


def _batches(parameters: Mapping[str, str], model: str, source: Source) -> int:
    text = parameters.get(IN_FLIGHT)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_IN_FLIGHT):
        wanted = f"expected a number of batches from 1 to {MOST_IN_FLIGHT}"
        raise source.error(
            f"parameter '{IN_FLIGHT}' of model '{model}' is '{text}': {wanted}", "parameters", f'"{IN_FLIGHT}"'
        )
    return int(text)


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
