"""Snapshots: what is registered, written down after each change so that a restart brings it back (TorchServe's format).

A snapshot is a properties file `<log folder>/config/yyyyMMddHHmmssSSS-{startup|snapshot|shutdown}.cfg`: the settings in effect
plus `model_snapshot`, a JSON document of all models, versions and their numbers.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...core.errors import InvalidConfig
from . import properties

Reason = Literal["startup", "snapshot", "shutdown"]
_NAME = re.compile(r"(\d{17})-(startup|snapshot|shutdown)\.cfg")
#: Keys that an entry must have to be restored (KServe's own configuration leaves the others out).
MANDATORY = ("defaultVersion", "marName", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")


@dataclass(frozen=True)
class Registered:
    """One registered version as a snapshot records it. `archive` is the name in the model store; times in seconds,
    `max_batch_delay` in ms."""

    name: str
    version: str
    is_default: bool
    archive: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int
    startup_timeout: int
    runtime: str = "python"

    def entry(self) -> dict[str, Any]:
        return {
            "defaultVersion": self.is_default,
            "marName": self.archive,
            "minWorkers": self.min_workers,
            "maxWorkers": self.max_workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay,
            "responseTimeout": self.response_timeout,
            "startupTimeout": self.startup_timeout,
            "runtimeType": self.runtime,
        }


def file_name(reason: Reason, at: datetime.datetime) -> str:
    return f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}-{reason}.cfg"


def document(name: str, created: datetime.datetime, models: Iterable[Registered]) -> dict[str, Any]:
    """The `model_snapshot` document; `modelCount` counts versions, as TorchServe does."""
    listed: dict[str, dict[str, Any]] = {}
    for model in models:
        listed.setdefault(model.name, {})[model.version] = model.entry()
    count = sum(len(versions) for versions in listed.values())
    return {"name": name, "modelCount": count, "created": round(created.timestamp() * 1000), "models": listed}


def text(live: Mapping[str, str], name: str, now: datetime.datetime, models: Iterable[Registered], version: str) -> str:
    """A snapshot file's content: `live` settings and the models. `now` must know its time zone."""
    content = {
        **live,
        "version": version,
        "model_snapshot": json.dumps(document(name, now, models), indent=2, ensure_ascii=False),
    }
    return properties.dump(content, ["Saving snapshot", f"{now:%a %b %d %H:%M:%S} {now.tzname() or 'UTC'} {now:%Y}"])


def write(folder: Path, name: str, content: str) -> Path:
    """Puts a snapshot into `folder`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / name, folder / f".{name}.part"
    try:
        mode = 0o600 if "keystore_pass=" in content else 0o644
        with open(partial, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            file.write(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def newest(folder: Path) -> Path | None:
    """The snapshot with the latest time in its name, None where there is none."""
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return max(found, key=lambda path: path.name[:17], default=None)


def check(found: Mapping[str, Any], entry_of: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Raises InvalidConfig where a `model_snapshot` document cannot be restored."""
    models = found.get("models")
    if not isinstance(models, Mapping) or not all(isinstance(versions, Mapping) for versions in models.values()):
        raise InvalidConfig('model_snapshot: expected {"models": {name: {version: {…}}}}')
    for name, versions in models.items():
        for version, entry in versions.items():
            where = f"{name}, {version}"
            if not isinstance(entry, Mapping) or any(key not in entry for key in MANDATORY):
                raise InvalidConfig(f"model_snapshot: '{where}': expected an object with {', '.join(MANDATORY)}")
            try:
                entry_of(where, entry)
            except ValueError as error:
                raise InvalidConfig(f"model_snapshot: {error}") from None


def restored(found: Mapping[str, Any], response_timeout: int, startup_timeout: int) -> list[Registered]:
    """The models of a `model_snapshot` document that `check` accepted, in its order, each name's default version first.

    `response_timeout` and `startup_timeout` stand in where the entry has none.
    """
    models = []
    for name, versions in found["models"].items():
        for version, entry in sorted(versions.items(), key=lambda item: not item[1]["defaultVersion"]):
            models.append(
                Registered(
                    name,
                    version,
                    bool(entry["defaultVersion"]),
                    str(entry["marName"]),
                    int(entry["minWorkers"]),
                    int(entry["maxWorkers"]),
                    int(entry["batchSize"]),
                    int(entry["maxBatchDelay"]),
                    _given(entry, "responseTimeout", response_timeout),
                    _given(entry, "startupTimeout", startup_timeout),
                    str(entry.get("runtimeType") or "python"),
                )
            )
    return models


def _given(entry: Mapping[str, Any], key: str, default: int) -> int:
    value = entry.get(key)
    return default if value is None else int(value)


def missing_archives(models: Iterable[Registered], store: Path) -> list[str]:
    """Archives that a snapshot names and the store does not hold; TorchServe then refuses to start."""
    return sorted({model.archive for model in models if not (store / model.archive).exists()})
