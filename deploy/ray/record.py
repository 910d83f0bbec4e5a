"""What a replica tells the ingress about itself, made of its server's /status.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

#: Their models are functions of a request's tensors: a request that has run may run again.
TENSOR_BACKENDS = frozenset({"torchscript", "exported", "eager", "onnxruntime"})


class Record(msgspec.Struct, frozen=True):
    """One replica. `repeatable`: models whose requests may run twice; `ongoing`: requests that it has; `room`: rows of the
    batches that it fills at once, of the model with the most."""

    host: str
    port: int
    metrics_port: int = 0
    ready: bool = False
    repeatable: tuple[str, ...] = ()
    ongoing: int = 0
    room: int = 1


def from_status(
    status: Mapping[str, Any], host: str, port: int, metrics_port: int, declared: Collection[str] = ()
) -> Record:
    """`declared` are models that the operator says may run twice; "*" is all."""
    repeatable, room = set(), 1
    for model in status["models"]:
        versions = model["versions"]
        if "*" in declared or model["name"] in declared or (versions and all(map(_repeatable, versions))):
            repeatable.add(model["name"])
        room = max([room, *(_room(version) for version in versions)])
    server = status["server"]
    ready = bool(server["ready"]) and not server["stopping"]
    return Record(host, port, metrics_port, ready, tuple(sorted(repeatable)), server["in_flight"], room)


def _repeatable(version: Mapping[str, Any]) -> bool:
    stateless = not version["batching"]["sequences"] and not version["decoupled"] and not version["archive"]
    return stateless and version["backend"] in TENSOR_BACKENDS


def _room(version: Mapping[str, Any]) -> int:
    rows, workers = int(version["batching"]["max_batch_size"]), int(version["wanted_workers"])
    return max(1, rows) * max(1, workers)
