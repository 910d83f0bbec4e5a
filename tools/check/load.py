"""`jitney check --load`: lets a server of its own load the models, on free ports of this machine, and asks how each fared."""

from __future__ import annotations

import contextlib
import json
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..bench.served import ServedProcess, ServerFailed, serving
from .finding import Finding, finding

#: Seconds that all models together may take.
LOAD_SECONDS = 1800.0


def load_repository(folder: Path, only: Sequence[str] = (), backends: Path | None = None) -> list[Finding]:
    """An error for each model of a repository that does not load."""
    flags = [flag for name in only for flag in ("--load-model", name)]
    explicit = ["--model-control-mode", "explicit"] if only else []
    shared = [] if backends is None else ["--backend-directory", str(backends.absolute())]
    found = _loaded(folder.absolute(), [*explicit, *flags, *shared], str(folder.absolute()))
    return [each for each in found if not only or not each.model or each.model in only]


def load_archive(path: Path) -> list[Finding]:
    """An error where a worker cannot load the archive."""
    with tempfile.TemporaryDirectory(prefix="jitney-check-") as name:
        empty, store = Path(name) / "models", Path(name) / "store"
        empty.mkdir()
        store.mkdir()
        (store / path.name).symlink_to(path.absolute())
        return _loaded(empty, ["--model-store", str(store)], str(path))


def _loaded(repository: Path, flags: Sequence[str], place: str) -> list[Finding]:
    try:
        with serving(repository, flags=flags, timeout=LOAD_SECONDS) as server:
            return [*_failed(server, place)]
    except ServerFailed as error:
        return [finding("error", str(error), path=place)]


def _failed(server: ServedProcess, place: str) -> Iterator[Finding]:
    for entry in _index(server):
        if entry.get("state") == "READY":
            yield Finding("note", f"model '{entry['name']}' loads", place, 0, entry["name"])
        else:
            reason = entry.get("reason") or f"it is {entry.get('state', 'not there').lower()}"
            yield Finding("error", f"model '{entry['name']}' does not load: {reason}", place, 0, entry["name"])


def _index(server: ServedProcess) -> list[dict[str, Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{server.inference}/v2/repository/index", b"{}", {"Content-Type": "application/json"})
    with contextlib.closing(opener.open(request, timeout=60)) as reply:
        found: list[dict[str, Any]] = json.load(reply)
        return found
