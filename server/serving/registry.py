"""`Registry`: which models exist, which versions of them serve, and which version answers when none is named.

Reading is lock-free: every change replaces a model's record as a whole. A version is served while its deployment is in the
record; a version that failed to load, or was unloaded, stays listed with its reason.

Without an explicit default (TorchServe's set-default, or the first version registered there) a request without a version goes
to the highest served one, numerically where versions are numbers (Triton).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ...core.errors import ModelNotFound, ModelNotReady, VersionNotFound
from .deployment import Deployment, ModelState


@dataclass(frozen=True)
class IndexEntry:
    """One row of the repository index; `version`, `state` and `reason` are empty for a model never loaded."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """What is known of one model: the deployments that serve it and the reasons of the versions that do not."""

    serving: Mapping[str, Deployment] = field(default_factory=dict)
    reasons: Mapping[str, tuple[ModelState, str]] = field(default_factory=dict)
    default: str | None = None

    @cached_property
    def default_version(self) -> str | None:
        if self.default in self.serving:
            return self.default
        return max(self.serving, key=version_order, default=None)


def _told(state: ModelState, reason: str) -> str:
    """Why a version does not serve, as requests for it are told."""
    return reason or ("it is being loaded" if state is ModelState.LOADING else "")


def version_order(version: str) -> tuple[int, int, str]:
    """Sorts versions as numbers where they are numbers, after those that are not."""
    return (1, int(version), "") if version.isdecimal() else (0, 0, version)


class Registry:
    """The models of this server. Threads: any; changes are serialised by a lock, look-ups take none."""

    def __init__(self) -> None:
        self._records: Mapping[str, Record] = {}
        self._lock = threading.Lock()
        self.on_change: Callable[[], None] = lambda: None  # called before the change is answered
        self.state = 0  # changes with every change

    # -- reading ---------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self._records)

    def records(self) -> list[tuple[str, Record]]:
        """Every model at one moment, sorted by name."""
        return sorted(self._records.items(), key=lambda item: item[0])

    def record(self, model: str) -> Record:
        try:
            return self._records[model]
        except KeyError:
            raise ModelNotFound(model) from None

    def serving(self, model: str) -> Mapping[str, Deployment]:
        """The versions of a model that requests are routed to; none of one that is unknown."""
        return self._records.get(model, Record()).serving

    def deployment(self, model: str, version: str | None = None) -> Deployment:
        """The deployment that answers for this model, whether or not it is ready yet."""
        record = self.record(model)
        wanted = version or record.default_version
        if wanted is not None and (found := record.serving.get(wanted)):
            return found
        if wanted in record.reasons:
            raise ModelNotReady(model, version, _told(*record.reasons[wanted]) if wanted else "")
        if version is not None:
            raise VersionNotFound(model, version)
        told = {v: _told(state, why) for v, (state, why) in record.reasons.items()}
        reason = "; ".join(f"version {v}: {why}" if v else why for v, why in told.items() if why)
        raise ModelNotReady(model, None, reason or "it has no available versions")

    def deployments(self) -> list[Deployment]:
        return [deployment for _, record in self.records() for deployment in record.serving.values()]

    def ensembles(self) -> list[Deployment]:
        """The ensembles that are served, in no order; quick also where there are thousands of other models."""
        found = [deployment for record in self._records.values() for deployment in record.serving.values()]
        return [deployment for deployment in found if deployment.config.backend == "ensemble"]

    def index(self) -> list[IndexEntry]:
        """One row for each version known, sorted by name and version."""
        rows = []
        for name, record in self.records():
            states = {v: (d.state.value, d.reason) for v, d in record.serving.items()}
            states |= {v: (state.value, why) for v, (state, why) in record.reasons.items() if v not in states}
            rows += [IndexEntry(name, version, *states[version]) for version in sorted(states, key=version_order)]
        return rows

    # -- changing --------------------------------------------------------------------------------------------------------

    def _change(self, model: str, change: Callable[[Record], Record | None]) -> None:
        with self._lock:
            records = dict(self._records)
            record = change(records.pop(model, Record()))
            if record is not None:
                records[model] = record
            self._records = records
            self.state += 1
            self.on_change()

    def put(self, deployment: Deployment, *, default: bool = False) -> Deployment | None:
        """Lets a deployment serve its version; returns the one it replaces, which the caller closes."""
        name, version = deployment.config.name, deployment.config.version
        replaced: list[Deployment] = []

        def change(record: Record) -> Record:
            if version in record.serving:
                replaced.append(record.serving[version])
            reasons = {v: why for v, why in record.reasons.items() if v != version}
            return Record({**record.serving, version: deployment}, reasons, version if default else record.default)

        self._change(name, change)
        return replaced[0] if replaced else None

    def note(self, model: str, version: str, state: ModelState, reason: str) -> None:
        """Lists a version that does not serve, with its reason; `version` "" where the model as a whole is meant."""
        self._change(model, lambda record: replace(record, reasons={**record.reasons, version: (state, reason)}))

    def note_failure(self, model: str, reason: str) -> None:
        """Lists why nothing of a model serves: for the versions that are listed, else for the model as a whole."""
        if not self.serving(model):
            listed = [version for version in self._records.get(model, Record()).reasons if version]
            for version in listed or [""]:
                self.note(model, version, ModelState.UNAVAILABLE, reason)

    def take(self, model: str, version: str, reason: str | None = "unloaded") -> Deployment | None:
        """Stops routing to a version and returns its deployment, which the caller closes.

        With a reason the version stays listed as unavailable; with None it is forgotten, and the model with its last version.
        """
        taken: list[Deployment] = []

        def change(record: Record) -> Record | None:
            serving = dict(record.serving)
            if version in serving:
                taken.append(serving.pop(version))
            reasons = {v: why for v, why in record.reasons.items() if v != version}
            if reason is not None:
                reasons[version] = (ModelState.UNAVAILABLE, reason)
            return Record(serving, reasons, record.default) if serving or reasons else None

        self._change(model, change)
        return taken[0] if taken else None

    def set_default(self, model: str, version: str) -> None:
        """Names the version that answers when none is given; raises ModelNotFound or VersionNotFound."""
        if version not in self.record(model).serving:
            raise VersionNotFound(model, version)
        self._change(model, lambda record: replace(record, default=version))

    def forget(self, model: str, version: str) -> None:
        """Drops a version that does not serve from the list."""
        self.take(model, version, None)
