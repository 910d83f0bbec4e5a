"""Auto-completion: what a configuration leaves out of inputs, outputs and batching, taken from the model itself.

The server imports no framework, so a short-lived process looks into the model:

    python -m jitney.backends.inspect FILE --kind onnx|torchscript|exported
        prints {"inputs": [{"name", "datatype", "shape"}], "outputs": [...]}: KServe datatypes, complete shapes with -1 for sizes
        that may differ; `datatype` empty and `shape` null where the file does not tell.
    python -m jitney.backends.autocomplete VERSION_DIRECTORY MODEL_FILE
        reads the configuration as JSON on stdin, calls `TritonPythonModel.auto_complete_config`, and prints the configuration
        that comes back as JSON (the same, where the model has no such method).

Both exit with 0, or with another status and the reason on stderr.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.errors import InvalidConfig
from ....core.names import relative_path
from ...process.environment import module_command, own_python
from .inspector import Inspector
from .layout import listing
from .pbtxt import Message, Source, parse_config_json, schema, to_json

log = logging.getLogger(__name__)

INSPECT_TIMEOUT_S = 120.0
KINDS = {"onnxruntime": "onnx", "torchscript": "torchscript", "exported": "exported"}
_PACKAGE = (__package__ or "").rsplit(".", 3)[0]
_MAX_REASON = 4000


@dataclass(frozen=True)
class Tensor:
    """A tensor as the model file declares it: the complete shape with the batch axis, None where the file does not tell."""

    name: str
    datatype: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Completer:
    """Completes configurations; remembers what a model file declared while the file does not change. Threads: any."""

    def __init__(self, backend_config: Mapping[str, Mapping[str, str]]) -> None:
        self._backend_config = backend_config
        self.inspector = Inspector(f"{_PACKAGE}.backends.inspect")
        self._signatures: dict[tuple[str, str], tuple[object, Signature]] = {}
        self._lock = threading.Lock()

    def complete(self, config: Message, backend: str, version_directory: Path, filename: str, source: Source) -> Message:
        """The configuration with what the model adds; `config` may be changed. Raises InvalidConfig with the model's reason.

        `filename`: the Python model's file, relative to the version's folder, or the path of its backend's.
        """
        if backend in KINDS and _lacks_tensors(config):
            path = version_directory / relative_path(config.default_model_filename)
            if backend == "onnxruntime" and path.is_dir():
                path /= "model.onnx"
            signature = self._signature(path, KINDS[backend], config.name, source)
            fill_from_signature(config, signature, self._default_max_batch_size(config.backend), source)
        if backend == "python" and (_lacks_tensors(config) or _mentions_auto_complete(version_directory, filename)):
            return self._ask_python_model(config, version_directory, filename, source)
        return config

    def _default_max_batch_size(self, backend: str) -> int:
        """Triton: `--backend-config=<backend>,default-max-batch-size=<n>`, 4 without; without a backend it is for all."""
        for name in (backend, ""):
            text = self._backend_config.get(name, {}).get("default-max-batch-size")
            if text is not None:
                if not text.isdecimal():
                    raise InvalidConfig(f"backend config default-max-batch-size must be an integer >= 0, got '{text}'")
                return int(text)
        return 4

    def _signature(self, path: Path, kind: str, model: str, source: Source) -> Signature:
        stamp = _stamp(path)
        if stamp is None:
            raise source.error(f"unable to find '{path}' for model '{model}' in a folder {listing(path.parent)}")
        with self._lock:
            known = self._signatures.get((kind, str(path)))
        if known is not None and known[0] == stamp:
            return known[1]
        signature = _parse_signature(self._inspected(path, kind, model), path)
        with self._lock:
            self._signatures[kind, str(path)] = (stamp, signature)
        return signature

    def _inspected(self, path: Path, kind: str, model: str) -> str:
        """What the file tells, as JSON. ONNX Runtime forgets a file that it has looked into; torch may not."""
        found = self.inspector.ask(path, kind, INSPECT_TIMEOUT_S) if kind == "onnx" else None
        if found is None:
            return _run("inspect", [str(path), "--kind", kind], "", INSPECT_TIMEOUT_S, model)
        if "error" in found:
            raise InvalidConfig(f"model '{model}' cannot be completed: {str(found['error'])[-_MAX_REASON:]}")
        return json.dumps(found.get("found"))

    def _ask_python_model(self, config: Message, version_directory: Path, filename: str, source: Source) -> Message:
        arguments = [str(version_directory), filename]
        seconds = self._backend_config.get("python", {}).get("stub-timeout-seconds", "")
        timeout = float(seconds) if seconds.isdecimal() else INSPECT_TIMEOUT_S
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        python = own_python(config.name, parameters, str(version_directory.parent))
        text = _run("autocomplete", arguments, json.dumps(to_json(config)), timeout, config.name, python)
        completed = parse_config_json(text, f"{version_directory / filename}: auto_complete_config")
        if completed.name != config.name:
            raise source.error(
                f"auto_complete_config of model '{config.name}' must not change its name to '{completed.name}'"
            )
        return completed


def fill_from_signature(config: Message, signature: Signature, default_max_batch_size: int, source: Source) -> None:
    """Triton's rules for ONNX models, here for TorchScript files too where they tell shapes.

    Batching is assumed where the first size of every tensor is -1; then `dims` leave it out and `max_batch_size`, where it
    is 0, becomes the default; above 1, dynamic batching is turned on unless a scheduler is configured. A tensor with no size
    left has dims [1] reshaped to []; a scalar of a model that does not batch has dims [1] (an empty reshape is for batches
    only, says Triton's core). What the configuration says stays; names it declares are completed one by one.
    """
    if not config.input or not config.output:
        _fill_batching(config, signature, default_max_batch_size, source)
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        declared = getattr(config, kind)
        if not declared:
            for tensor in tensors:
                declared.add().name = tensor.name
        known = {tensor.name: tensor for tensor in tensors}
        for entry in declared:
            if entry.name in known:
                _fill_tensor(entry, known[entry.name], config, kind, source)


def _fill_batching(config: Message, signature: Signature, default_max_batch_size: int, source: Source) -> None:
    tensors = (*signature.inputs, *signature.outputs)
    if any(tensor.shape is None for tensor in tensors):
        return
    if not all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors):
        if config.max_batch_size > 0:
            text = "model does not support batching while non-zero max_batch_size is specified"
            raise source.error(f"autofill failed for model '{config.name}': {text}", "max_batch_size")
        return
    if config.max_batch_size == 0:
        config.max_batch_size = max(default_max_batch_size, 1)
    if config.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.SetInParent()


def _fill_tensor(entry: Message, tensor: Tensor, config: Message, kind: str, source: Source) -> None:
    if entry.data_type == schema.TYPE_INVALID and tensor.datatype is not None:
        entry.data_type = schema.DataType.Value("TYPE_" + tensor.datatype.replace("BYTES", "STRING"))
    if not entry.dims and tensor.shape is not None:
        dims = tensor.shape[1:] if config.max_batch_size > 0 else tensor.shape
        if 0 in dims:
            text = f"{kind} '{tensor.name}' of model '{config.name}' has the shape {list(tensor.shape)}, which no tensor has"
            raise source.error(text)
        entry.dims.extend(dims or (1,))
        if not dims and config.max_batch_size > 0:
            entry.reshape.SetInParent()
    for field, value in (("data_type", entry.data_type), ("dims", entry.dims)):
        if not value:
            text = f"'{field}' of {kind} '{tensor.name}' of model '{config.name}' is not in the model's file either"
            raise source.error(f"{text}; it must be in the configuration", kind, f'"{tensor.name}"')


def _lacks_tensors(config: Message) -> bool:
    tensors = (*config.input, *config.output)
    incomplete = any(not tensor.dims or tensor.data_type == schema.TYPE_INVALID for tensor in tensors)
    return incomplete or not config.input or not config.output


def _mentions_auto_complete(version_directory: Path, filename: str) -> bool:
    """Whether any module beside the model speaks of the method: most models don't, and a process that imports one is slow."""
    folders = dict.fromkeys((version_directory, version_directory.parent, (version_directory / filename).parent))
    for path in (path for folder in folders for path in folder.glob("*.py")):
        try:
            if b"auto_complete_config" in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def _stamp(path: Path) -> object:
    """Changes when the file does, or a file in it where it is a folder; None where there is nothing."""
    try:
        if path.is_dir():
            return tuple(sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in path.iterdir()))
        return (path.stat().st_size, path.stat().st_mtime_ns)
    except OSError:
        return None


def _run(module: str, arguments: Sequence[str], text: str, timeout: float, model: str, python: Path | None = None) -> str:
    """What `python -m jitney.backends.<module>` printed; InvalidConfig with its reason where it failed."""
    name = f"{_PACKAGE}.backends.{module}"
    if importlib.util.find_spec(name) is None:
        raise InvalidConfig(f"model '{model}' cannot be completed: this installation has no module {name}")
    command = [*module_command(python, name), *arguments]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=timeout, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise InvalidConfig(f"model '{model}' cannot be completed: {module} took longer than {timeout:g} s") from None
    except OSError as error:
        raise InvalidConfig(f"model '{model}' cannot be completed: {error}") from error
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        raise InvalidConfig(f"model '{model}' cannot be completed: {said[-_MAX_REASON:] or f'exit code {done.returncode}'}")
    if said:
        log.info("completing model '%s': %s", model, said[-_MAX_REASON:])
    return done.stdout.decode(errors="replace")


def _parse_signature(text: str, path: Path) -> Signature:
    try:
        document = json.loads(text)
        return Signature(_parse_tensors(document["inputs"]), _parse_tensors(document["outputs"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidConfig(f"cannot understand what inspecting {path} printed: {error!r}: {text[:200]!r}") from None


def _parse_tensors(entries: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            str(entry["name"]),
            str(entry["datatype"] or "") or None,
            None if entry["shape"] is None else tuple(int(size) for size in entry["shape"]),
        )
        for entry in entries
    )
