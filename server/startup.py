"""Which models are loaded when the server starts: a repository's (Triton's control modes) and a model store's (TorchServe)."""

from __future__ import annotations

import time
from pathlib import Path

from .dataplane import DataPlane
from .errors import JitneyError
from .modelcontrol import ModelControl, Report
from .registration import Registration
from .settings import Settings

ARCHIVES = (".mar", ".model", ".tar.gz")


def preload(control: ModelControl, settings: Settings, report: Report) -> None:
    """Loads what the control mode asks for: everything, or in mode "explicit" only `--load-model`; "*" is everything."""
    names: list[str] | None = [name for name in settings.load_model if name != "*"]
    if "*" in settings.load_model or (not names and settings.model_control_mode != "explicit"):
        names = None
    control.load_all(names, report)
    if settings.model_control_mode == "poll":
        control.poll(settings.repository_poll_secs)


def load_archives(dataplane: DataPlane, settings: Settings, report: Report) -> None:
    """Registers `load_models` / `--models` one after the other; each failure is reported and the rest goes on (TorchServe)."""
    for name, url in archives(settings):
        began = time.monotonic()
        management = dataplane.management
        if management is None:
            return
        try:
            model, version, _ = management.register(Registration(url, model_name=name), at_startup=True)
            report(model, version, None, time.monotonic() - began)
        except JitneyError as error:
            report(name or url, "", str(error), time.monotonic() - began)


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
