"""`ModelStore`: from what a registration asks for to a `ModelConfig`; owner of every folder and file made on the way.

resolve(registration)   finds, fetches, unpacks, reads; raises with the disk as it was before
release(config)         after the version's last worker ended: its folders go, and its archive if it came by URL
close()                 at the server's end: all folders go, fetched archives stay

The file is long since whatever is made on the way from a URL to a model has to be taken back here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ....core.errors import (
    ArchiveExists,
    InvalidArchive,
    InvalidParameter,
    InvalidRequest,
    SaveFailed,
    Unsupported,
    UrlRefused,
)
from ....core.model_config import ModelConfig
from ....core.names import is_safe_name, safe_name
from ....core.worker_group import grouped
from ...process import progress
from ...process.cores import gpus as present_gpus
from ...process.cores import usable_cores
from ...settings.settings import Settings
from ...settings.snapshots import Registered
from . import dependencies, fetch
from .archive import RUNTIMES, Archive, open_archive
from .archive_entries import Limits
from .fast_path import fast_path
from .handler_config import handler_config
from .model_yaml import Asked, Defaults, ModelYaml, parse_yaml, rank
from .registration import Registration
from .workspace import Workspace

log = logging.getLogger(__name__)

#: Seconds between two lines about an archive that takes long.
PROGRESS_EVERY = 5.0


class ModelStore:
    """See the module's page. Threads: any. `gpus`: ids of the GPUs that models may use, None = ask the driver."""

    def __init__(self, settings: Settings, gpus: Sequence[int] | None = None) -> None:
        self.settings = settings
        self._gpus = gpus
        self._workspace = Workspace()
        self._lock = threading.Lock()
        self._fetched: dict[str, Path] = {}

    # -- verbs -----------------------------------------------------------------------------------------------------------

    def resolve(
        self, registration: Registration, *, at_startup: bool = False, restored: Registered | None = None
    ) -> ModelConfig:
        """The configuration of the version that `registration` asks for. `restored`: its numbers come from a snapshot.

        Raises InvalidParameter, UrlRefused, ArchiveExists, DownloadFailed, SaveFailed, InvalidArchive,
        DependencyInstallFailed or Unsupported; nothing is left behind then.
        """
        if registration.runtime is not None and registration.runtime not in RUNTIMES:
            raise InvalidParameter("runtime", registration.runtime, f"one of {', '.join(RUNTIMES)}")
        url = registration.url
        if not url:
            raise UrlRefused("the url is empty", url, "empty")
        if ".." in url:
            raise UrlRefused(f"'{url}' has '..' in it", url, "relative")
        try:
            work = self._workspace.make()
        except OSError as error:
            raise SaveFailed(f"nothing can be kept in the temporary folder: {error}", url) from None
        try:
            if fetch.has_scheme(url):
                return self._from_url(registration, work, at_startup, restored)
            return self._configured(registration, self._find(url), work, at_startup, restored)
        except BaseException:
            self._workspace.remove(work)
            raise

    def release(self, config: ModelConfig) -> None:
        """Removes what `resolve` made for this version. Nothing may use it any more; a second call does nothing."""
        if not config.work_directory:
            return
        with self._lock:
            fetched = self._fetched.pop(config.work_directory, None)
        if fetched is not None:
            fetched.unlink(missing_ok=True)
        self._workspace.remove(Path(config.work_directory))

    def close(self) -> None:
        """Removes all folders that were made; nothing may use them any more."""
        self._workspace.close()

    # -- finding and fetching --------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        if self.settings.model_store is None:
            raise UrlRefused("no model store is configured; start the server with --model-store DIR", "", "no_store")
        return Path(self.settings.model_store)

    def _find(self, url: str) -> Path:
        """A folder by its absolute path; else the store's file or folder of that name, whatever folders stand before it."""
        if url.startswith("/") and _is_there(Path(url), file=False):
            return Path(url)
        name = url.rstrip("/").rpartition("/")[2]
        found = self._folder / name
        if name in ("", ".") or "\0" in name or name.startswith(".") or not _is_there(found):
            raise UrlRefused(f"there is no '{name}' in the model store", url, "missing")
        return found

    def _from_url(
        self, registration: Registration, work: Path, at_startup: bool, restored: Registered | None
    ) -> ModelConfig:
        url, settings = registration.url, self.settings
        rules = fetch.Rules(
            settings.allowed_urls, settings.allow_private_urls, settings.max_download_bytes, settings.download_timeout
        )
        parts = fetch.check_url(url, rules)
        if registration.s3_sse_kms:
            raise Unsupported("s3_sse_kms: requests to S3 are not signed here; use a presigned URL")
        name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
        if not is_safe_name(name):
            raise UrlRefused(f"'{url}' ends in {name!r}, which cannot become a file of the model store", url, "not_allowed")
        target = self._folder / name
        if target.exists():
            raise ArchiveExists(name)
        fetched = work / name
        with _progress("fetching", name) as tell:
            fetch.fetch(parts.geturl(), fetched, rules, tell)
        config = self._configured(registration, fetched, work, at_startup, restored)
        _place(fetched, target, url)
        with self._lock:
            self._fetched[config.work_directory] = target
        return config

    # -- reading ---------------------------------------------------------------------------------------------------------

    def _configured(
        self, registration: Registration, path: Path, work: Path, at_startup: bool, restored: Registered | None
    ) -> ModelConfig:
        archive = self._open(registration, path, work)
        name = self._name(registration, archive, path, at_startup)
        found = _model_yaml(archive, name)
        for note in found.notes if found else ():
            log.warning("model '%s': %s", name, note)
        asked = _asked(registration, at_startup, restored)
        version = archive.manifest.model_version
        entry = self.settings.models.get(name, {}).get(version, {})
        numbers = rank(asked, found, entry, self._defaults(), archive.manifest.runtime)
        config = handler_config(
            self.settings, registration, archive, found or ModelYaml(), numbers, name=name, gpus=self._usable_gpus()
        )
        config = replace(config, work_directory=str(work), loaded_at_startup=at_startup and restored is None)
        config = self._loading(config, registration, found or ModelYaml())
        if self.settings.fast_path:
            files = {item.name for item in archive.directory.iterdir()}
            config = fast_path(config, archive.manifest, files, os.environ) or config
        if found is not None and found.worker_group:
            config = grouped(config, found.worker_group)
        return self._with_dependencies(config, archive, found, work)

    def _loading(self, config: ModelConfig, registration: Registration, found: ModelYaml) -> ModelConfig:
        """With when its workers start. A registration that asks for workers gets them at once."""
        settings, on_demand = self.settings, found.load_on_demand
        if on_demand is None:
            on_demand = settings.default_load == "on_demand"
        idle = settings.default_idle_timeout_s if found.idle_timeout_s is None else float(found.idle_timeout_s)
        return replace(config, on_demand=on_demand and not registration.initial_workers, idle_timeout_s=idle)

    def _open(self, registration: Registration, path: Path, work: Path) -> Archive:
        settings = self.settings
        limits = Limits(settings.max_archive_bytes, settings.max_archive_entries, settings.max_archive_ratio)
        try:
            with _progress("unpacking", path.name) as tell:
                return open_archive(path, work / "model", limits, tell)
        except InvalidArchive as error:
            if error.kind == "not_archive" and not registration.model_name:
                # TorchServe takes such a file for an archive without a manifest, and complains about that.
                raise InvalidArchive(str(error), "model_name") from None
            raise
        except OSError as error:
            raise SaveFailed(f"'{path.name}' cannot be unpacked: {error}", registration.url) from None

    def _name(self, registration: Registration, archive: Archive, path: Path, at_startup: bool) -> str:
        name = registration.model_name or archive.manifest.model_name
        if not name and at_startup:
            stem = path.name.removesuffix(".gz").rpartition(".")[0] if path.is_file() else path.name
            name = "".join(char if char.isalnum() or char == "_" else "_" for char in stem)
        if not name:
            raise InvalidArchive(
                f"{path.name}: its manifest has no 'modelName', and none was given", "model_name", "modelName"
            )
        return safe_name(name, InvalidRequest if registration.model_name else InvalidArchive)

    def _with_dependencies(self, config: ModelConfig, archive: Archive, found: ModelYaml | None, work: Path) -> ModelConfig:
        wanted = archive.manifest.requirements_file
        if not wanted or config.handler is None:
            return config
        if not self.settings.install_py_dep_per_model:
            log.warning("model '%s': '%s' is not installed: install_py_dep_per_model is false", config.name, wanted)
            return config
        requirements, seconds = archive.file(wanted), self.settings.install_timeout
        log.info("model '%s': installing '%s'", config.name, wanted)
        if found is not None and found.use_venv:
            python = dependencies.install_venv(config.name, requirements, work / "venv", seconds)
            return replace(config, handler=replace(config.handler, python=python))
        return replace(config, environment=dependencies.install_folder(config.name, requirements, work / "site", seconds))

    # -- the machine -----------------------------------------------------------------------------------------------------

    def _usable_gpus(self) -> tuple[int, ...]:
        """The GPUs that `number_of_gpu` leaves."""
        if self.settings.number_of_gpu == 0:
            return ()
        gpus = tuple(present_gpus() if self._gpus is None else self._gpus)
        return gpus[: self.settings.number_of_gpu]

    def _defaults(self) -> Defaults:
        settings = self.settings
        return Defaults(
            workers=settings.default_workers_per_model,
            startup_workers=settings.default_workers_per_model or len(self._usable_gpus()) or usable_cores(),
            response_timeout=settings.default_response_timeout,
            startup_timeout=settings.default_startup_timeout,
            job_queue_size=settings.job_queue_size,
        )


@contextlib.contextmanager
def _progress(verb: str, name: str) -> Iterator[Callable[[int, int], None]]:
    """What is told of the bytes that are fetched or unpacked: shown on a terminal, else in the log."""
    with progress.shown.task(f"{verb} {name}", 1 << 20, " MiB") as task:
        yield task.update if progress.shown.is_shown else _Progress(verb, name)


class _Progress:
    """One line every few seconds while a large archive is fetched or unpacked."""

    def __init__(self, verb: str, name: str) -> None:
        self._verb, self._name, self._next = verb, name, time.monotonic() + PROGRESS_EVERY

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_EVERY
        share = f" of {total >> 20} MiB ({100 * done // total} %)" if total else ""
        log.info("%s %s: %d MiB%s", self._verb, self._name, done >> 20, share)


def _asked(registration: Registration, at_startup: bool, restored: Registered | None) -> Asked:
    if restored is None:
        return Asked(
            registration.batch_size,
            registration.max_batch_delay,
            registration.response_timeout,
            registration.startup_timeout,
            registration.initial_workers,
            registration.runtime or "",
            at_startup=at_startup,
        )
    return Asked(
        restored.batch_size,
        restored.max_batch_delay,
        restored.response_timeout,
        restored.startup_timeout,
        runtime=restored.runtime,
        at_startup=at_startup,
        restored=True,
        workers=(restored.min_workers, restored.max_workers),
    )


def _model_yaml(archive: Archive, model: str) -> ModelYaml | None:
    """What the manifest's configFile says, None without one. Archives exist whose configFile is a Python file for the handler
    (MMDetection's script makes them): one that is called otherwise than YAML may be none.
    """
    name = archive.manifest.config_file
    if not name:
        return None
    path = archive.file(name)
    if not path.is_file():
        raise InvalidArchive(f"the manifest's configFile '{name}' is not in the archive", "file", "configFile")
    try:
        return parse_yaml(path.read_bytes(), name)
    except InvalidArchive as error:
        if path.suffix.lower() in (".yaml", ".yml", ".json"):
            raise
        log.warning("model '%s': the configFile is no model-config.yaml and sets nothing: %s", model, error)
        return None


def _is_there(path: Path, *, file: bool = True) -> bool:
    """Whether there is such a folder, or file where those count too. A name that is too long is nobody's."""
    try:
        return path.is_dir() or (file and path.is_file())
    except OSError:
        return False


def _place(source: Path, target: Path, url: str) -> None:
    """Puts a fetched archive into the store under its name, whole, and never over another file."""
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)  # the store is on another file system
        try:
            os.link(partial, target)
        except FileExistsError:
            raise ArchiveExists(target.name) from None
        source.unlink()
    except OSError as error:
        raise SaveFailed(f"'{target.name}' cannot be saved to the model store: {error}", url) from None
    finally:
        partial.unlink(missing_ok=True)
