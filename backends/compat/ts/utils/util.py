"""Small helpers that handlers import: labels, text clean-up, pt2 backends, the exception with a status."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import yaml

from jitney.codecs.text import TAGS

logger = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: What the text handlers strip of HTML.
CLEANUP_REGEX = TAGS


class PT2Backend(enum.StrEnum):
    """The `torch.compile` backends that model-config.yaml may name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


class PredictionException(Exception):
    """Raised by a handler to answer with `message` and the HTTP status `error_code`."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether `backend` is one that TorchServe passes to torch.compile; a warning where it is not."""
    if backend in set(PT2Backend):
        return True
    logger.warning("'%s' is no torch.compile backend; expected one of %s", backend, ", ".join(PT2Backend))
    return False


def get_yaml_config(yaml_file_path: str) -> dict[str, Any]:
    """The mapping in a YAML file."""
    document = yaml.safe_load(Path(yaml_file_path).read_text())
    if not isinstance(document, dict):
        raise ValueError(f"{yaml_file_path}: expected a mapping, found {type(document).__name__}")
    return document


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that `module` itself defines (imported ones do not count), subclasses of `parent_class` only, if given."""
    defined = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    return [cls for cls in defined if parent_class is None or issubclass(cls, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """index_to_name.json as {index: name}; None with a warning where there is no file.

    Accepts {"0": "cat"}, {"0": ["n02123045", "cat"]} (the last element counts) and {"object_type_names": ["cat"]}.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        logger.warning("%s is missing. Inference output will not include class name.", path)
        return None
    mapping = json.loads(path.read_bytes())
    if not isinstance(mapping, dict):
        raise ValueError(f"{path}: expected an object from class index to name, found {type(mapping).__name__}")
    if isinstance(names := mapping.get("object_type_names"), list):
        mapping = {str(index): name for index, name in enumerate(names)}
    return {key: _label(path, key, value) for key, value in mapping.items()}


def _label(path: Path, key: str, value: Any) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str):
        raise ValueError(f"{path}: the name of class {key} is {value!r}; expected text or a list that ends with it")
    return value


def map_class_to_label(
    probs: Sequence[Sequence[Any]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Iterable[int]] | None = None,
) -> list[dict[str, Any]]:
    """One `{label: probability}` for each row of `probs`, a list of lists.

    `lbl_classes` are the class indices of each row (0, 1, … where left out). Without a mapping, and for classes that it lacks,
    the label is the index.
    """
    if not (isinstance(probs, list) and all(isinstance(row, list) for row in probs)):
        raise TypeError("probs must be a list of lists of numbers; convert tensors with .tolist()")
    names = mapping or {}
    classes = [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {names.get(str(index), str(index)): value for index, value in zip(indices, row, strict=False)}
        for indices, row in zip(classes, probs, strict=False)
    ]


def deprecated(
    version: str | float, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorator of a function that goes away in `version`: a call warns and names what to use instead."""

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        name = getattr(function, "__name__", repr(function))

        @functools.wraps(function)
        def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            instead = f"; use {replacement}" if replacement else ""
            warnings.warn(f"{name} is deprecated in {version}{instead}", klass, stacklevel=2)
            return function(*args, **kwargs)

        return wrapper

    return decorate
