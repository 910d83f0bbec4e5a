"""Loading, unloading and asking for other models, and where this model lives."""

from __future__ import annotations

from collections.abc import Mapping

from ._worker import current


def get_model_dir() -> str:
    """The folder of the version that runs here."""
    return current().directory


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    return bool(current().host.control("is_ready", model_name, {"version": model_version}))


def load_model(model_name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
    """Loads or reloads a model of the repository; needs the model control mode "explicit"."""
    current().host.control("load", model_name, {"config": config, "files": dict(files or {})})


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    current().host.control("unload", model_name, {"unload_dependents": unload_dependents})
