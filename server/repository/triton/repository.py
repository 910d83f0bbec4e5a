"""`TritonRepository`: folders of models in Triton's layout -> `ModelConfig`, one for each version that is served.

    <repository>/<model>/config.pbtxt              may be missing or partial: completed from the model
    <repository>/<model>/configs/<name>.pbtxt      used instead where the server was told a configuration name
    <repository>/<model>/<version>/model.onnx …    a version is a folder named with a positive integer

Several repositories are one; a model's name may be in only one of them. Nothing is read but what a call asks for; a model that
is broken is no reason for another one to fail.
"""

from __future__ import annotations

import errno
import logging
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

from ....core.errors import InvalidConfig, InvalidRequest, JitneyError, ModelNotFound, SaveFailed
from ....core.model_config import ModelConfig
from ....core.names import inside, is_safe_name, safe_name
from ...process.cores import gpus as visible_gpus
from .checks import check_config
from .complete import Completer
from .convert import BackendName, to_model_config
from .defaults import (
    backend_of,
    check_filename,
    check_instance_groups,
    fill_backend,
    fill_instance_groups,
    fill_scheduling,
    model_filename,
)
from .devices import framework_uses_gpus
from .fields import check_fields
from .layout import CONFIG_FILE, check_level, loose_ends, misplaced_configs, missing_version
from .limits import NO_LIMITS, Limits, limited
from .loading import AT_START, Loading, loading
from .pbtxt import Message, Source, parse_config, parse_config_json, read_config, schema
from .python_backends import backend_file
from .sharing import sharing
from .stamps import stamps
from .versions import no_version, served, version_directories

log = logging.getLogger(__name__)

#: Folders of uploaded files that are kept for one model: what serves, what it replaced and may still be answering, and some
#: loads that failed since. A model that is unloaded keeps none.
KEPT_UPLOADS = 8

#: What writing a file ends with where its name is of no use beside the others: one is a folder to another, or it is too long.
_NAMES_TO_BLAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class TritonRepository:
    """One or more model repositories. Threads: any; `close` when no model of it is served any more."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        auto_complete: bool = True,
        backend_config: Mapping[str, Mapping[str, str]] | None = None,
        backend_directory: Path | None = None,
        config_name: str = "",
        gpus: Sequence[int] | None = None,
        limits: Limits = NO_LIMITS,
        load: Loading = AT_START,
        open_ended: bool = False,
    ) -> None:
        """`backend_config`: backend -> key -> value, "" for all of them. `gpus`: the ids to place models on, None = ask.
        `backend_directory`: the folder with Python-based backends.

        `limits`, `load`: for models that say nothing of their own. `open_ended`, beside `auto_complete` False: a configuration
        may leave out what its model would tell, and stays without it.
        """
        self._paths = [Path(path).absolute() for path in paths]
        for path in self._paths:
            if not path.is_dir():
                raise InvalidConfig(f"model repository '{path}' is not a folder")
            check_level(path)
        self._backends = None if backend_directory is None else Path(backend_directory).absolute()
        if self._backends is not None and not self._backends.is_dir():  # commands for Triton name a folder of its image
            log.warning("backend directory '%s' is not a folder: there are no Python-based backends", self._backends)
        self._config_name = safe_name(config_name, InvalidConfig) if config_name else ""
        self._completer = Completer(backend_config or {}) if auto_complete else None
        self._gpus = None if gpus is None else list(gpus)
        self._limits, self._load, self._open_ended = limits, load, open_ended
        self._uploads: dict[str, list[tempfile.TemporaryDirectory[str]]] = {}
        self._lock = threading.Lock()

    # -- verbs -------------------------------------------------------------------------------------------------------------

    def loose_ends(self) -> list[str]:
        """Sentences about what lies in the repositories and is no model."""
        return [sentence for path in self._paths for sentence in loose_ends(path)]

    def names(self) -> list[str]:
        """All models of all repositories, sorted. Hidden folders are passed over, unusable names with a warning."""
        names = set()
        for path in self._paths:
            for entry in path.iterdir():
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                if is_safe_name(entry.name):
                    names.add(entry.name)
                else:
                    log.warning("%s: passed over, its name cannot be a model's", entry)
        return sorted(names)

    def many(self) -> AbstractContextManager[None]:
        """Around the reading of many models, so that what is needed to look into their files is started once."""
        return nullcontext() if self._completer is None else self._completer.inspector.many()

    def read(
        self, name: str, *, config_json: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> list[ModelConfig]:
        """One `ModelConfig` for each version that the model's policy serves, ascending.

        `config_json` replaces the configuration file. `files` (relative path -> content) replace the model's folder and need
        `config_json`; they are kept in a folder of their own until `release`. Raises ModelNotFound where there is no folder,
        InvalidRequest for names and files that may not be, InvalidConfig with the reason for everything else.
        """
        safe_name(name)
        if files and config_json is None:
            raise InvalidRequest(f"model '{name}': files need a 'config' parameter beside them")
        if not files:
            return self._read(self._directory(name), name, config_json)
        upload = _uploaded(name, files)
        try:
            configs = self._read(Path(upload.name).resolve() / name, name, config_json)
        except BaseException:
            upload.cleanup()
            raise
        self._keep(name, upload)
        return configs

    def parameters(self, name: str) -> dict[str, str]:
        """A model's parameters as its configuration file says them; none where it cannot be read. No file of the model is
        looked into."""
        try:
            given, _ = self._parse(self._directory(name), name, None)
        except JitneyError:
            return {}
        return {key: value.string_value for key, value in given.parameters.items()}

    def fingerprint(self, name: str) -> Hashable:
        """Changes when a file of the model does; None where no repository has it."""
        found = [path / name for path in self._paths if is_safe_name(name) and (path / name).is_dir()]
        return tuple(entry for directory in found for entry in stamps(directory)) if found else None

    def release(self, name: str) -> Callable[[], None]:
        """Forgets the files that were uploaded for a model until now; returns what removes them, for when its workers ended."""
        with self._lock:
            uploads = self._uploads.pop(name, [])

        def remove() -> None:
            for upload in uploads:
                upload.cleanup()

        return remove

    def close(self) -> None:
        for name in list(self._uploads):
            self.release(name)()

    # -- how ---------------------------------------------------------------------------------------------------------------

    def _read(self, directory: Path, name: str, config_json: str | None) -> list[ModelConfig]:
        for sentence in misplaced_configs(directory) if config_json is None else ():
            log.warning("%s", sentence)
        config, source = self._parse(directory, name, config_json)
        if config.name not in ("", name):
            text = f"unexpected directory name '{name}' for model '{config.name}', directory name must equal model name"
            raise source.error(text, "name")
        config.name = name
        versions = version_directories(directory)
        if not versions:
            raise no_version(name, missing_version(directory))
        return [
            self._version(config, source, versions[number]) for number in served(config.version_policy, [*versions], name)
        ]

    def _directory(self, name: str) -> Path:
        found = [path / name for path in self._paths if (path / name).is_dir()]
        if not found:
            raise ModelNotFound(name)
        if len(found) > 1:
            places = " and ".join(str(path.parent) for path in found)
            raise InvalidConfig(f"model '{name}' is in more than one repository: {places}")
        return found[0]

    def _parse(self, directory: Path, name: str, config_json: str | None) -> tuple[Message, Source]:
        """The configuration as given: inline, from its file, or empty where the model is to tell everything."""
        if config_json is not None:
            where = f"config of the load request for '{name}'"
            return parse_config_json(config_json, where), Source(where, config_json)
        path = directory / CONFIG_FILE
        if self._config_name and (directory / "configs" / f"{self._config_name}.pbtxt").is_file():
            path = directory / "configs" / f"{self._config_name}.pbtxt"
        try:
            text = read_config(path)
        except FileNotFoundError:
            if self._completer is None and not self._open_ended:
                raise InvalidConfig(f"{path}: there is no such file, and auto-completion is turned off") from None
            return schema.ModelConfig(), Source(str(path))
        except OSError as error:
            raise InvalidConfig(f"{path}: cannot be read: {error}") from None
        return parse_config(text, str(path)), Source(str(path), text)

    def _version(self, given: Message, source: Source, version_directory: Path) -> ModelConfig:
        """One version, from the configuration as given: completed, checked, converted. The order is Triton's."""
        config = schema.ModelConfig()
        config.CopyFrom(given)
        check_filename(config, source)
        fill_backend(config, version_directory)
        script = backend_file(config, self._backends, source)
        if script is None:
            backend = cast(BackendName, backend_of(config, version_directory, source))
            filename = model_filename(config, backend)
        else:
            backend, filename, config.runtime = "python", str(script), script.name
        check_fields(config, source, config.name)
        if self._completer is not None:
            completed = self._completer.complete(config, backend, version_directory, filename, source)
            if completed is not config:
                check_fields(completed, source, config.name)
            config = completed
        fill_scheduling(config)
        check_config(config, source)
        if not self._open_ended:
            _check_has_tensors(config, backend, source)
        if backend == "ensemble":
            config.model_transaction_policy.SetInParent()
        gpus = self._visible_gpus()
        fill_instance_groups(config, gpus, automatic=framework_uses_gpus(backend))
        check_instance_groups(config, gpus, source)
        converted = to_model_config(config, backend, filename, version_directory, source)
        return sharing(loading(limited(converted, self._limits, source), self._load, source), source)

    def _visible_gpus(self) -> list[int]:
        if self._gpus is None:
            self._gpus = visible_gpus()
        return self._gpus

    def _keep(self, name: str, upload: tempfile.TemporaryDirectory[str]) -> None:
        with self._lock:
            uploads = self._uploads.setdefault(name, [])
            uploads.append(upload)
            oldest = [uploads.pop(0) for _ in range(len(uploads) - KEPT_UPLOADS)]
        for old in oldest:
            old.cleanup()


def _uploaded(name: str, files: Mapping[str, bytes]) -> tempfile.TemporaryDirectory[str]:
    """A folder of its own with the files of a model, whose paths are checked. SaveFailed where they cannot be kept."""
    try:
        upload = tempfile.TemporaryDirectory(prefix="jitney-model-", ignore_cleanup_errors=True)
        try:
            _write_files(Path(upload.name).resolve() / name, name, files)
        except BaseException:
            upload.cleanup()
            raise
    except OSError as error:
        raise SaveFailed(f"model '{name}': its files cannot be kept in the temporary folder: {error}") from None
    return upload


def _write_files(directory: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Writes uploaded files to a new folder, and nothing outside of it. OSError where that is not due to their names."""
    try:
        directory.mkdir()
        for path, content in files.items():
            target = inside(directory, path, InvalidRequest)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    except OSError as error:
        if error.errno not in _NAMES_TO_BLAME:
            raise
        raise InvalidRequest(f"model '{name}': cannot write its files: {error.strerror}") from None


def _check_has_tensors(config: Message, backend: str, source: Source) -> None:
    """Triton's PyTorch backend in text. A Python model may have none: its `execute` decides."""
    for kind in ("input", "output"):
        if backend != "python" and not getattr(config, kind):
            text = f"model configuration must contain at least one {kind}, none were specified for {config.name}"
            raise source.error(text)
