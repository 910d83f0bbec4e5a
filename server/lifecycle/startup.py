"""Which models are loaded when the server starts: a repository's (Triton's control modes) and a model store's (TorchServe).

TorchServe's archives are registered one after the other before the first request is taken, so that none of them is unknown to
a client; their workers load while the server answers already. What a snapshot restores stands in place of `load_models`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import InvalidConfig, JitneyError
from ...core.names import is_safe_name
from ..repository.torchserve.registration import Registration
from ..repository.triton.strays import ARCHIVES, is_archive, strays
from ..settings.settings import Settings
from ..settings.snapshots import Registered, missing_archives, restored
from .management import Management, Served
from .model_control import ModelControl, Report

log = logging.getLogger(__name__)


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

    deployment: Served
    began: float


def chosen(control: ModelControl | None, settings: Settings) -> list[str]:
    """The repository's models that the control mode asks for: all, or in mode "explicit" only `--load-model`; "*" is all.

    InvalidConfig where a repository cannot be read.
    """
    if control is None:
        return []
    if "*" not in settings.load_model and (settings.load_model or settings.model_control_mode == "explicit"):
        loaded = settings.load_models.split(",")
        elsewhere = {name for name, file in _only_in_store(settings).items() if file in loaded}
        return [name for name in settings.load_model if name not in elsewhere]
    try:
        return control.names()
    except OSError as error:
        raise InvalidConfig(f"--model-repository: '{error.filename}' cannot be read: {error.strerror}") from None


def preload(control: ModelControl, names: Sequence[str], settings: Settings, report: Report) -> None:
    """Loads the `chosen` models, and looks for changes from then on in the control mode "poll"."""
    for sentence in control.repository.loose_ends() if settings.model_control_mode != "explicit" else ():
        log.warning("%s", sentence)
    control.load_all(names, report)
    if settings.model_control_mode == "poll":
        control.poll(settings.repository_poll_secs)


def with_archives(settings: Settings) -> Settings:
    """What `jitney serve --model-store` loads of the store where `load_models` does not say it: all, as of a repository.

    `--load-model` names archives too, by their file's name with or without its ending; in mode "explicit" no others are loaded.
    An archive has one worker unless something says more, as a repository's models have, and not one for each core.
    """
    if not settings.default_workers_per_model:
        settings = replace(settings, default_workers_per_model=1)
    if settings.model_store is None or settings.load_models or settings.model_snapshot is not None:
        return settings
    if "*" in settings.load_model or not (settings.load_model or settings.model_control_mode == "explicit"):
        return replace(settings, load_models="all")
    if settings.model_repository:
        return replace(settings, load_models=",".join(_only_in_store(settings).values()))
    return replace(settings, load_models=",".join(_file(settings, name) or name for name in settings.load_model))


def _only_in_store(settings: Settings) -> dict[str, str]:
    """The names of `--load-model` that no repository has and the model store does, with their files."""
    named = {name: _file(settings, name) for name in settings.load_model}
    return {
        name: file
        for name, file in named.items()
        if file and not any(Path(folder, name).is_dir() for folder in settings.model_repository)
    }


def _file(settings: Settings, name: str) -> str:
    """The store's file that a name of `--load-model` means, "" where there is none."""
    if settings.model_store is None or not is_safe_name(name):
        return ""
    candidates = [name, *(name + ending for ending in ARCHIVES)]
    return next((file for file in candidates if Path(settings.model_store, file).is_file()), "")


def tell_strays(settings: Settings) -> None:
    """Says which archives lie in a repository, where nothing serves them, and what to do."""
    for folder in map(Path, settings.model_repository):
        for path in strays(folder):
            if settings.model_store is None or path.parent != Path(settings.model_store):
                what = "an unpacked TorchServe archive" if path.is_dir() else "a TorchServe archive"
                log.warning(
                    "%s is %s, which a model repository does not serve; put it into a folder of archives and name that with "
                    "--model-store DIR (model_store in config.properties)",
                    path, what,
                )  # fmt: skip


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
        if item.deployment.on_demand:
            return  # nothing has been loaded yet
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
    return is_archive(path) or (path.is_dir() and not path.name.startswith("."))
