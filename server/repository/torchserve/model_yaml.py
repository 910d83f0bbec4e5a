"""`model-config.yaml` inside an archive, and how its numbers rank among all the places that may say one. Pure.

Keys and defaults are TorchServe 0.12's (`ModelConfig.java`), but for `loadOnDemand` and `idleTimeoutInSec`, which are jitney's. A
value of the wrong type is noted and ignored, as there; keys that the server does not know are for the handler, which sees the
whole document.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ....core.errors import InvalidArchive

MAX_BYTES = 1 << 20
#: Most values a document may have once its aliases are written out; more is an attack ("billion laughs").
MAX_VALUES = 100_000
MAX_DEPTH = 64
#: TorchServe's default for both timeouts where a yaml exists and does not say.
YAML_TIMEOUT = 120
#: What TorchServe shows as maxBatchDelay where none is declared. Nothing waits for it: see `Numbers.delay_ms`.
UNDECLARED_DELAY = 100


@dataclass(frozen=True)
class ModelYaml:
    """The server's keys of a `model-config.yaml`. None or "" = not said. `notes` names what was ignored."""

    document: Mapping[str, Any] = field(default_factory=dict)
    min_workers: int = 0
    max_workers: int = 0
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int = YAML_TIMEOUT
    startup_timeout: int = YAML_TIMEOUT
    device_type: str = ""
    device_ids: tuple[int, ...] = ()
    parallel_type: str = ""
    parallel_level: int = 0
    max_retry_timeout: int = 300
    client_timeout_ms: int = 0
    job_queue_size: int | None = None
    use_job_ticket: bool = False
    continuous_batching: bool = False
    sequence_batching: bool = False
    sequence_max_idle_ms: int = 0
    sequence_timeout_ms: int = 0
    max_num_sequence: int = 1
    max_sequence_job_queue_size: int = 1
    async_communication: bool = False
    use_venv: bool = False
    load_on_demand: bool | None = None
    idle_timeout_s: int | None = None
    worker_group: str = ""
    notes: tuple[str, ...] = ()


#: yaml key -> field, type, least value.
_KEYS: dict[str, tuple[str, type, int | None]] = {
    "minWorkers": ("min_workers", int, None),
    "maxWorkers": ("max_workers", int, 0),
    "batchSize": ("batch_size", int, None),
    "maxBatchDelay": ("max_batch_delay", int, None),
    "responseTimeout": ("response_timeout", int, 1),
    "startupTimeout": ("startup_timeout", int, 1),
    "deviceType": ("device_type", str, None),
    "deviceIds": ("device_ids", list, None),
    "parallelType": ("parallel_type", str, None),
    "parallelLevel": ("parallel_level", int, 1),
    "maxRetryTimeoutInSec": ("max_retry_timeout", int, 0),
    "clientTimeoutInMills": ("client_timeout_ms", int, 0),
    "jobQueueSize": ("job_queue_size", int, 1),
    "useJobTicket": ("use_job_ticket", bool, None),
    "continuousBatching": ("continuous_batching", bool, None),
    "sequenceBatching": ("sequence_batching", bool, None),
    "sequenceMaxIdleMSec": ("sequence_max_idle_ms", int, 0),
    "sequenceTimeoutMSec": ("sequence_timeout_ms", int, 0),
    "maxNumSequence": ("max_num_sequence", int, 1),
    "maxSequenceJobQueueSize": ("max_sequence_job_queue_size", int, 1),
    "asyncCommunication": ("async_communication", bool, None),
    "useVenv": ("use_venv", bool, None),
    "loadOnDemand": ("load_on_demand", bool, None),
    "idleTimeoutInSec": ("idle_timeout_s", int, 0),
    "workerGroup": ("worker_group", str, None),
}
_WORDS = {"deviceType": ("cpu", "gpu"), "parallelType": ("none", "pp", "tp", "pptp", "custom")}


def parse_yaml(raw: bytes, where: str = "model-config.yaml") -> ModelYaml:
    """Reads the file. InvalidArchive (kind "yaml") where it is not plain YAML data; tags of Python objects are refused."""
    if len(raw) > MAX_BYTES:
        raise InvalidArchive(f"{where}: larger than {MAX_BYTES} bytes", "yaml", where)
    try:
        loaded = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidArchive(f"{where}: {reason}", "yaml", where) from None
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise InvalidArchive(f"{where}: expected keys and values, found {type(loaded).__name__}", "yaml", where)
    document = plain(loaded, where)
    notes: list[str] = []
    values = {_KEYS[key][0]: value for key in _KEYS if (value := _value(key, document, where, notes)) is not None}
    if "min_workers" in values:
        values["min_workers"] = max(1, values["min_workers"])  # TorchServe's `setMinWorkers`
    torchrun = document.get("torchrun")
    if isinstance(torchrun, dict) and isinstance(torchrun.get("nproc-per-node"), int) and "parallel_level" not in values:
        values["parallel_level"] = torchrun["nproc-per-node"]
    return ModelYaml(document=document, notes=tuple(notes), **values)


def _value(key: str, document: Mapping[str, Any], where: str, notes: list[str]) -> Any:
    """The key's value, None where it is absent or not of its type (then it is noted)."""
    value = document.get(key)
    if value is None:
        return None
    _, kind, least = _KEYS[key]
    if kind is list:
        fits = isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        expected = "a list of integers"
    elif kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
        fits = fits and (least is None or value >= least)
        expected = "an integer" if least is None else f"an integer of at least {least}"
    else:
        fits = isinstance(value, kind) and value in _WORDS.get(key, (value,))
        expected = " or ".join(_WORDS[key]) if key in _WORDS else "true or false"
    if not fits:
        notes.append(f"{where}: {key} is {str(value)[:100]!r} and is ignored, expected {expected}")
        return None
    return tuple(value) if kind is list else value


def plain(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy without aliases, made of what a message to a worker can carry; InvalidArchive where that is too much.

    Dates, integers of more than 64 bits and texts that are no Unicode become texts, sets lists: no key of the server's has such
    a value. The worker reads them from the file (`backends/handler.py`).
    """
    copied: dict[str, Any] = _copy(document, where, [MAX_VALUES])
    return copied


def _copy(value: Any, where: str, left: list[int], depth: int = 0) -> Any:
    """`left` counts down the values allowed."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise InvalidArchive(f"{where}: more than {MAX_VALUES} values or {MAX_DEPTH} levels with aliases", "yaml", where)
    if isinstance(value, Mapping):
        return {_key(key, where): _copy(item, where, left, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_copy(item, where, left, depth + 1) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return hex(value)  # Python writes no decimal text of more than 4,300 digits
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _key(key: Any, where: str) -> Any:
    key = _scalar(key)
    if key is not None and not isinstance(key, str | int | float | bool):
        raise InvalidArchive(f"{where}: a key is a {type(key).__name__}, expected text or a number", "yaml", where)
    return key


@dataclass(frozen=True)
class Asked:
    """What a registration says; None = nothing. TorchServe's own marks for "nothing" (-1, and -100 for the delay) count too.

    at_startup  loaded by `load_models`, not over the API
    restored    from a snapshot, whose numbers beat all; `workers` is its (min, max)
    """

    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    initial_workers: int | None = None
    runtime: str = ""
    at_startup: bool = False
    restored: bool = False
    workers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Defaults:
    """The server's defaults. `workers` for registrations, `startup_workers` for models loaded at startup."""

    workers: int = 0
    startup_workers: int = 1
    response_timeout: int = 120
    startup_timeout: int = 120
    job_queue_size: int = 100


@dataclass(frozen=True)
class Numbers:
    """The outcome, as TorchServe shows it. `rows` and `delay_ms` are what is in effect: a size below 1 is 1, a delay below 0
    is 0, and where no delay is declared there is none (TorchServe waits 100 ms then, its most reported defect)."""

    batch_size: int
    max_batch_delay: int
    response_timeout: int
    startup_timeout: int
    min_workers: int
    max_workers: int
    job_queue_size: int
    runtime: str
    delay_declared: bool

    @property
    def rows(self) -> int:
        return max(1, self.batch_size)

    @property
    def delay_ms(self) -> int:
        return max(0, self.max_batch_delay) if self.delay_declared else 0


def rank(asked: Asked, found: ModelYaml | None, entry: Mapping[str, Any], defaults: Defaults, runtime: str) -> Numbers:
    """Decides every number (TorchServe's `ModelManager.createModel`). `found`: the archive's yaml, None without one;
    `entry`: what `models={…}` says of this name and version; `runtime`: the manifest's.

    batch size, delay    registration > yaml > models > 1, 100
    timeouts             yaml, or 120 where it does not say > models > registration > defaults
    workers              yaml (0 < min <= max) > registration: initial_workers; at startup: models > defaults
    queue size           yaml > default
    runtime              models > registration > manifest
    restored snapshot    its values beat all
    """
    positive = {key: value for key, value in entry.items() if isinstance(value, int) and value > 0}
    from_yaml = found or ModelYaml()
    batch_size = _first(_said(asked.batch_size, -1), _positive(from_yaml.batch_size), positive.get("batchSize"))
    delay = _first(_said(asked.max_batch_delay, -100), _positive(from_yaml.max_batch_delay), positive.get("maxBatchDelay"))
    low, high = _workers(asked, from_yaml, positive, defaults)
    in_yaml = (found.response_timeout, found.startup_timeout) if found else (None, None)
    default = (defaults.response_timeout, defaults.startup_timeout)
    return Numbers(
        batch_size=1 if batch_size is None else batch_size,
        max_batch_delay=UNDECLARED_DELAY if delay is None else delay,
        response_timeout=_timeout(asked, asked.response_timeout, in_yaml[0], positive.get("responseTimeout"), default[0]),
        startup_timeout=_timeout(asked, asked.startup_timeout, in_yaml[1], positive.get("startupTimeout"), default[1]),
        min_workers=low,
        max_workers=high,
        job_queue_size=from_yaml.job_queue_size or defaults.job_queue_size,
        runtime=asked.runtime if asked.restored else str(entry.get("runtimeType") or "") or asked.runtime or runtime,
        delay_declared=delay is not None,
    )


def _timeout(asked: Asked, given: int | None, in_yaml: int | None, in_models: int | None, default: int) -> int:
    said = _said(given, -1)
    order = (said, in_yaml, in_models, default) if asked.restored else (in_yaml, in_models, said, default)
    found = _first(*order)
    return default if found is None else found


def _workers(asked: Asked, found: ModelYaml, models: Mapping[str, int], defaults: Defaults) -> tuple[int, int]:
    if asked.workers is not None:
        return asked.workers
    if 0 < found.min_workers <= found.max_workers:
        return found.min_workers, found.max_workers
    if not asked.at_startup:
        count = max(0, defaults.workers if asked.initial_workers is None else asked.initial_workers)
        return count, count
    low = models.get("minWorkers", defaults.startup_workers)
    return low, max(low, models.get("maxWorkers", defaults.startup_workers))


def _said(value: int | None, nothing: int) -> int | None:
    return None if value == nothing else value


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
