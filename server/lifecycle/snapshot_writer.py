"""`SnapshotWriter`: writes a snapshot of what is registered after each change, so that a restart brings it back (TorchServe)."""

from __future__ import annotations

import datetime
import logging
import threading
from pathlib import Path

from ..serving.deployment import Deployment
from ..serving.registry import Registry, version_order
from ..settings import snapshots
from ..settings.settings import Settings
from ..settings.snapshots import Reason, Registered

log = logging.getLogger(__name__)

#: The TorchServe release whose snapshots these are.
VERSION = "0.12.0"
_TICK = datetime.timedelta(milliseconds=1)


class SnapshotWriter:
    """Threads: any; snapshots are written one after the other, each with what is registered at that moment."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings, self.registry = settings, registry
        self._lock = threading.Lock()
        self._last = datetime.datetime.min.replace(tzinfo=datetime.UTC)

    def write(self, reason: Reason) -> None:
        """Writes a snapshot unless snapshots are off. A failure is logged: serving does not depend on it."""
        if not self.settings.write_snapshots:
            return
        with self._lock:
            now = self._moment()
            name = snapshots.file_name(reason, now)
            content = snapshots.text(self.settings.live, name, now, registered(self.registry), VERSION)
            try:
                snapshots.write(self.settings.snapshot_folder, name, content)
            except OSError as error:
                log.error("the snapshot %s cannot be written: %s", self.settings.snapshot_folder / name, error)

    def _moment(self) -> datetime.datetime:
        """Now, in local time; at least a millisecond after the last one, since names and their order hang on it."""
        now = max(datetime.datetime.now().astimezone(), self._last + _TICK)
        self._last = now
        return now


def registered(registry: Registry) -> list[Registered]:
    """What is registered, name by name; models of a repository are not, since they are not registered."""
    found = []
    for _, record in registry.records():
        for version in sorted(record.serving, key=version_order):
            deployment = record.serving[version]
            if deployment.config.torchserve:
                found.append(_entry(deployment, version == record.default_version))
    return found


def _entry(deployment: Deployment, is_default: bool) -> Registered:
    config, numbers = deployment.config, deployment.config.torchserve
    return Registered(
        config.name,
        config.version,
        is_default,
        _archive(config.url),
        deployment.min_workers,
        deployment.max_workers,
        int(numbers["batchSize"]),
        int(numbers["maxBatchDelay"]),
        int(numbers["responseTimeout"]),
        int(numbers["startupTimeout"]),
        config.runtime,
    )


def _archive(url: str) -> str:
    """The archive's name in the model store; a folder registered by its absolute path keeps the path, which restores it."""
    if url.startswith("/") and Path(url).is_dir():
        return url
    return url.partition("?")[0].rstrip("/").rpartition("/")[2]
