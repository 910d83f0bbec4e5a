"""What a configuration leaves out and its folder or the machine tells: backend, file name, instance groups.

The rules are Triton's (core, model_config_utils.cc): the defaults show in the config route.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ....core.errors import InvalidConfig
from ....core.model_config import CPU_TOO
from ....core.names import relative_path
from .checks import PLATFORM_OF, PT2_PLATFORM
from .foreign import OWN, of_files, of_names
from .layout import listing
from .pbtxt import Message, Source, schema

log = logging.getLogger(__name__)

#: Of a package of AOTInductor, a program of torch.export, and one of torch before 2.8.
_PT2_MEMBER = re.compile(r"/data/aotinductor/|/models/\w+\.json$|(^|/)serialized_exported_program\.json$")

DEFAULT_FILENAME = {"onnxruntime": "model.onnx", "pytorch": "model.pt", "python": "model.py"}
#: Of the PyTorch backend: what torch.export saved or AOTInductor compiled.
PT2_FILENAME = "model.pt2"
#: What a file is most likely meant for where its name is not the backend's.
BACKEND_OF_SUFFIX = {".onnx": "onnxruntime", ".pt": "pytorch", ".pth": "pytorch", ".pt2": "pytorch", ".py": "python"}
SEQUENCE_IDLE_US = 1_000_000
#: Triton starts two instances of these on the CPU when the count is not given.
TWO_INSTANCES_ON_CPU = frozenset({"onnxruntime"})

Group = schema.ModelInstanceGroup


def fill_backend(config: Message, version_directory: Path) -> None:
    """Fills `platform`, `backend` and `default_model_filename` from one another or from the files of a version."""
    if config.platform == "ensemble" or config.HasField("ensemble_scheduling"):
        return
    if not config.backend:
        config.backend = _deduced_backend(config, version_directory)
    if config.backend in PLATFORM_OF and not config.platform:
        config.platform = PLATFORM_OF[config.backend]
    if not config.default_model_filename and config.runtime != "model.py":
        config.default_model_filename = _default_filename(config, version_directory)


def _default_filename(config: Message, version_directory: Path) -> str:
    usual = DEFAULT_FILENAME.get(config.backend, "")
    if config.backend != "pytorch":
        return usual
    only_pt2 = (version_directory / PT2_FILENAME).is_file() and not (version_directory / usual).exists()
    return PT2_FILENAME if only_pt2 or config.platform == PT2_PLATFORM else usual


def _deduced_backend(config: Message, version_directory: Path) -> str:
    for backend, filename in DEFAULT_FILENAME.items():
        platform = PLATFORM_OF.get(backend)
        if platform is not None and config.platform == platform:
            return backend
        if config.default_model_filename == filename:
            return backend
        if not config.platform and not config.default_model_filename and (version_directory / filename).exists():
            return backend
    return "pytorch" if _is_pt2(config, version_directory) else ""


def _is_pt2(config: Message, version_directory: Path) -> bool:
    """Whether a configuration without a backend means a `.pt2` file."""
    named = config.platform or config.default_model_filename
    return named in (PT2_PLATFORM, PT2_FILENAME) if named else (version_directory / PT2_FILENAME).is_file()


def backend_of(config: Message, version_directory: Path, source: Source) -> str:
    """The backend in this server's vocabulary: eager, torchscript, exported, onnxruntime, python or ensemble.

    Raises InvalidConfig for one that is not offered. `pytorch` is eager where `runtime` says "model.py", or where the version
    has a model.py and no TorchScript archive or `.pt2` program under the model's file name.
    """
    if config.platform == "ensemble":
        return "ensemble"
    if config.backend == "pytorch":
        if _is_eager(config, version_directory):
            return "eager"
        return "exported" if is_exported(version_directory / config.default_model_filename) else "torchscript"
    if config.backend in ("onnxruntime", "python"):
        return str(config.backend)
    if not config.backend and not config.platform:
        raise source.error(_no_backend(config, version_directory))
    foreign = of_names(config.backend, config.platform)
    offered = "pytorch, onnxruntime, python or platform 'ensemble'"
    way_out = f"; {config.name} is {foreign.what}: {foreign.way_out}" if foreign else f"; {OWN}"
    text = f"unexpected platform type '{config.platform}' for {config.name}, expected backend {offered}{way_out}"
    if config.backend:
        text = f"backend '{config.backend}' of {config.name} is not offered, expected {offered}{way_out}"
    raise source.error(text, "backend" if config.backend else "platform")


#: Ends of the names of files that hold weights and no program.
_WEIGHTS = (".safetensors", ".bin", ".ckpt")


def _no_backend(config: Message, version_directory: Path) -> str:
    """Why neither the configuration nor the version's files tell how to run the model, and what would."""
    text, named = f"must specify 'platform' or 'backend' for '{config.name}': ", config.default_model_filename
    names = [path.name for path in version_directory.iterdir()] if version_directory.is_dir() else []
    foreign = of_files([named] if named else names)
    if foreign is not None:
        return f"{text}'{named or _one_of(foreign.files, names)}' is {foreign.what}, which is not served: {foreign.way_out}"
    known = ", ".join((*DEFAULT_FILENAME.values(), PT2_FILENAME))
    text += f"there is no {known} in {version_directory}, {listing(version_directory)}"
    for suffix, backend in BACKEND_OF_SUFFIX.items():
        alike = sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))
        if len(alike) == 1:
            name = PT2_FILENAME if suffix == ".pt2" else DEFAULT_FILENAME[backend]
            written = f'backend: "{backend}" default_model_filename: "{alike[0]}"'
            return f"{text}; rename {alike[0]} to {name}, or write {written} into its config.pbtxt"
    if weights := [name for name in names if name.endswith(_WEIGHTS)]:
        rename = "" if weights[0].endswith(".safetensors") else f", and rename {weights[0]} to {DEFAULT_FILENAME['pytorch']}"
        return f"{text}: weights alone; put a model.py with the module's class beside them{rename}"
    return text


def _one_of(files: Sequence[str], names: Sequence[str]) -> str:
    return next(name for name in files if name in names)


def _is_eager(config: Message, version_directory: Path) -> bool:
    if config.runtime == "model.py" or config.default_model_filename.endswith(".py"):
        return True
    weights = version_directory / (config.default_model_filename or DEFAULT_FILENAME["pytorch"])
    return (version_directory / "model.py").is_file() and not (is_torchscript(weights) or is_exported(weights))


def is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip with `<name>/constants.pkl` and code; a state dict that torch saved has neither."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def is_exported(path: Path) -> bool:
    """A `.pt2` file, or a zip of another name with what such a file has inside."""
    if path.suffix == ".pt2":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_PT2_MEMBER.search(name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def check_filename(config: Message, source: Source) -> None:
    """The model file must be in its version's folder, by name; a link to another place is the operator's own."""
    if config.default_model_filename:
        try:
            relative_path(config.default_model_filename)
        except InvalidConfig as error:
            text = f"'default_model_filename' of {config.name}: {error}"
            raise source.error(text, "default_model_filename") from None


def model_filename(config: Message, backend: str) -> str:
    """The model's file relative to its version's folder. Eager: the file with the module's class, whatever holds the weights."""
    name = str(config.default_model_filename)
    if backend == "ensemble":
        return ""
    if backend == "eager":
        name = name if name.endswith(".py") else "model.py"
    return name


def fill_scheduling(config: Message) -> None:
    """Triton's defaults that do not depend on the folder; call it after the model completed its own configuration."""
    if not config.HasField("version_policy"):
        config.version_policy.latest.num_versions = 1
    if config.HasField("dynamic_batching"):
        _fill_preferred(config.dynamic_batching, config.max_batch_size)
    if config.HasField("sequence_batching"):
        if config.sequence_batching.max_sequence_idle_microseconds == 0:
            config.sequence_batching.max_sequence_idle_microseconds = SEQUENCE_IDLE_US
        if config.sequence_batching.HasField("oldest"):
            _fill_preferred(config.sequence_batching.oldest, config.max_batch_size)
    if config.HasField("ensemble_scheduling"):
        return
    for memory in ("input_pinned_memory", "output_pinned_memory"):
        if not config.optimization.HasField(memory):
            getattr(config.optimization, memory).enable = True


def _fill_preferred(batching: Message, max_batch_size: int) -> None:
    if not batching.preferred_batch_size and max_batch_size > 0:
        batching.preferred_batch_size.append(max_batch_size)


def fill_instance_groups(config: Message, gpus: Sequence[int], automatic: bool) -> None:
    """Gives every group a name, a kind, a count and its GPUs; `automatic`: whether KIND_AUTO may take the GPUs there are."""
    if config.HasField("ensemble_scheduling"):
        return
    if not config.instance_group:
        config.instance_group.add().name = config.name
    for index, group in enumerate(config.instance_group):
        if not group.name:
            group.name = f"{config.name}_{index}"
        if group.kind == Group.KIND_AUTO:
            takes = automatic and bool(gpus) and set(group.gpus) <= set(gpus)
            group.kind = Group.KIND_GPU if takes else Group.KIND_CPU
        if group.count < 1:
            two = group.kind == Group.KIND_CPU and config.backend in TWO_INSTANCES_ON_CPU
            group.count = 2 if two else 1
        if group.kind == Group.KIND_GPU and not group.gpus:
            group.gpus.extend(gpus)


def check_instance_groups(config: Message, gpus: Sequence[int], source: Source) -> None:
    """Triton's rules for kinds and GPUs, after `fill_instance_groups`; its texts, and what to write instead."""
    for group in config.instance_group:
        if problem := _group_problem(config, group, gpus):
            reason, field = problem
            raise source.error(f"instance group {group.name} of model {config.name} {reason}", "instance_group", field)


def _group_problem(config: Message, group: Message, gpus: Sequence[int]) -> tuple[str, str] | None:
    """What is wrong with one group, and the field that says so."""
    if group.profile:
        text = f"and platform {config.platform} specifies profile field which is only supported for TensorRT models"
        return f"{text}; delete it", "profile"
    if group.kind == Group.KIND_GPU:
        if not group.gpus:
            return f"has kind KIND_GPU but no GPUs are available; {CPU_TOO}", "kind"
        missing = [gpu for gpu in group.gpus if gpu not in gpus]
        if missing:
            found = ", ".join(map(str, gpus)) or "none"
            text = f"specifies invalid or unsupported gpu id {missing[0]}. GPUs that are available: {found}"
            return f"{text}; leave 'gpus' out, or {CPU_TOO}", "gpus"
    elif group.gpus:
        cure = "leave 'gpus' out, or write KIND_GPU" if gpus else "leave 'gpus' out: this machine has no GPU"
        return f"has kind {Group.Kind.Name(group.kind)} but specifies one or more GPUs; {cure}", "gpus"
    return None
