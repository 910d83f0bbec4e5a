"""Which models are loaded when the server starts: a repository's (Triton's control modes) and a model store's (TorchServe).

TorchServe's archives are registered one after the other before the first request is taken, so that none of them is unknown to
a client; their workers load while the server answers already. What a snapshot restores stands in place of `load_models`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .errors import InvalidConfig, JitneyError
from .management import Management
from .modelcontrol import ModelControl, Report
from .registration import Registration
from .settings import Settings
from .snapshots import Registered, missing_archives, restored
from .worker_deployment import WorkerDeployment

log = logging.getLogger(__name__)

ARCHIVES = (".mar", ".model", ".tar.gz")


@dataclass(frozen=True)
class Planned:
    """One archive to register; `restored` has its numbers where a snapshot says them."""

    registration: Registration
    restored: Registered | None = None

    @property
    def name(self) -> str:
        """What the operator calls it: the model's name where one is given, else the archive."""
        return self.registration.model_name or self.registration.url


@dataclass(frozen=True)
class Begun:
    """A model whose workers are starting since `began` (monotonic seconds)."""

    deployment: WorkerDeployment
    began: float


def chosen(control: ModelControl | None, settings: Settings) -> list[str]:
    """The repository's models that the control mode asks for: all, or in mode "explicit" only `--load-model`; "*" is all.

    InvalidConfig where a repository cannot be read.
    """
    if control is None:
        return []
    names = [name for name in settings.load_model if name != "*"]
    if "*" not in settings.load_model and (names or settings.model_control_mode == "explicit"):
        return names
    try:
        return control.names()
    except OSError as error:
        raise InvalidConfig(f"--model-repository: '{error.filename}' cannot be read: {error.strerror}") from None


def preload(control: ModelControl, names: Sequence[str], settings: Settings, report: Report) -> None:
    """Loads the `chosen` models, and looks for changes from then on in the control mode "poll"."""
    control.load_all(names, report)
    if settings.model_control_mode == "poll":
        control.poll(settings.repository_poll_secs)


def planned(settings: Settings) -> list[Planned]:
    """What `model_snapshot`, or else `load_models` / `--models`, asks for.

    InvalidConfig where a snapshot names archives that the model store does not hold: TorchServe does not start then either.
    """
    if settings.model_snapshot is None:
        return [Planned(Registration(url, model_name=name)) for name, url in archives(settings)]
    models = restored(settings.model_snapshot, settings.default_response_timeout, settings.default_startup_timeout)
    store = Path(settings.model_store or "")
    if missing := missing_archives(models, store):
        raise InvalidConfig(
            f"{settings.source}: model_snapshot names {', '.join(missing)}, which the model store '{store}' does not hold; "
            "put them there, or start with --ts-config or --no-config-snapshots"
        )
    if settings.load_models:
        log.info("load_models=%s has no effect: model_snapshot in %s comes first", settings.load_models, settings.source)
    return [Planned(Registration(model.archive, model_name=model.name), model) for model in models]


def register(management: Management, plan: Sequence[Planned], report: Report) -> list[Begun]:
    """Registers one archive after the other and begins to start their workers; each failure is reported and the rest goes
    on (TorchServe)."""
    begun = []
    for item in plan:
        began = time.monotonic()
        try:
            begun.append(Begun(management.begin(item.registration, item.restored), began))
        except JitneyError as error:
            version = item.restored.version if item.restored else ""
            report(item.name, version, str(error), time.monotonic() - began)
    return begun


def settle(begun: Sequence[Begun], report: Report) -> None:
    """Returns when each model is ready or has failed once, having reported it at that moment."""
    if not begun:
        return

    def wait(item: Begun) -> None:
        config, reason = item.deployment.config, None
        try:
            if config.min_workers:
                item.deployment.wait_ready()
        except JitneyError as error:
            reason = str(error)
        report(config.name, config.version, reason, time.monotonic() - item.began)

    with ThreadPoolExecutor(len(begun), thread_name_prefix="settle") as pool:
        list(pool.map(wait, begun))


def archives(settings: Settings) -> list[tuple[str | None, str]]:
    """The (name or None, file or URL) pairs of `load_models`: `all`, `a.mar,b.mar`, `name=a.mar`, `name=https://…`."""
    wanted = settings.load_models.strip()
    if not wanted or settings.model_store is None:
        return []
    if wanted.lower() == "all":
        return [(None, path.name) for path in sorted(Path(settings.model_store).iterdir()) if _is_model(path)]
    pairs: list[tuple[str | None, str]] = []
    for entry in wanted.split(","):
        name, separator, url = entry.partition("=")
        pairs.append((name, url) if separator and "/" not in name else (None, entry))
    return pairs


def _is_model(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.name.endswith(ARCHIVES))
