"""A codec of the user's own: a Python file in the model's folder, named by the parameter `codec` ("codec.py").

    def decode(request):            # before the request is queued: its inputs
        return {"IMAGE": …}
    def encode(outputs, request):   # when its result came back: its answer
        return {"label": …}

Both run in the server process, in the request's HTTP thread, several at a time, as built-in codecs do: what waits for a batch are
rows of tensors. The file is read when the model loads (`with_source`), from the model's folder only, and anew when the model is
reloaded; with `front_ends` above 1 each of them runs what was read then. What it raises is answered with the codec's and the
model's name, and is logged.
`docs/predictions.md` is the page for its authors.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..core.call import SlowEncode
from ..core.errors import InvalidConfig, InvalidRequest, ModelFailed
from ..core.model_config import ModelConfig
from ..core.names import inside
from ..core.request import Part, Response
from ..core.tensor import Tensor
from .base import Codec, Encode, refuse_explanation
from .json_codec import with_json
from .json_inputs import JsonInputs

SUFFIX = ".py"
_WHOLE = ("data", "body")
_BYTES, _TEXT = "application/octet-stream", "text/plain; charset=utf-8"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodecField:
    """One field of a form. `content_type` is "" for fields that are no files."""

    data: bytes
    content_type: str = ""


@dataclass(frozen=True)
class CodecRequest:
    """What `decode` and `encode` see of a request.

    body          the body as it came; of a form its field `data`, or else `body`, b"" where there is none
    content_type  its content type without parameters, "" where the client named none
    headers       as the client spelled them
    fields        the fields of a form by name, empty for any other body
    """

    body: bytes
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, CodecField] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Sequence[Part], headers: Mapping[str, str]) -> CodecRequest:
        fields = {part.name: CodecField(bytes(part.data), part.content_type) for part in parts}
        main = next((fields[name] for name in _WHOLE if name in fields and fields[name].data), CodecField(b""))
        whole = list(fields) == ["body"]
        return cls(main.data, main.content_type, headers, {} if whole else fields)


class OwnCodec(Codec):
    """Calls the functions of the model's file. Raises `InvalidConfig` with the reason where the file cannot be used."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        module = _load(config)
        self._decode, self._encode = _function(config, module, "decode"), _function(config, module, "encode")
        self._inputs = JsonInputs(config)

    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        return self.read(parts, headers)[0]

    def read(self, parts: Sequence[Part], headers: Mapping[str, str]) -> tuple[list[Tensor], Encode]:
        refuse_explanation(self.config, headers)
        request = CodecRequest.of(parts, headers)
        try:
            values = self._decode(request)
        except ValueError as error:
            raise InvalidRequest(f"codec '{self.config.codec}' of model '{self.config.name}': {error}") from error
        except (Exception, SystemExit) as error:
            raise self._failed("decode", error) from error
        return self._tensors(values), SlowEncode(partial(self._answer, request))

    def encode(self, response: Response) -> Response:
        return self._answer(CodecRequest(b""), response)

    def _tensors(self, values: Any) -> list[Tensor]:
        """What `decode` returned; a misfit is the codec's mistake and not the client's."""
        try:
            named = self._inputs.by_name(values if isinstance(values, dict) else _plain(values))
            tensors = [self._inputs.tensor(self._inputs.spec(name), _plain(value)) for name, value in named.items()]
            return self._inputs.complete(tensors)
        except InvalidRequest as error:
            raise self._misfit("decode", str(error)) from error

    def _answer(self, request: CodecRequest, response: Response) -> Response:
        outputs = {tensor.name: _array(tensor) for tensor in response.tensors}
        try:
            answer = self._encode(outputs, request)
        except (Exception, SystemExit) as error:
            raise self._failed("encode", error) from error
        return self._sent(response, answer)

    def _sent(self, response: Response, answer: Any) -> Response:
        """bytes and text as they are, with another content type where a pair names one; JSON of anything else."""
        content_type = ""
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
            answer, content_type = answer
            if not isinstance(answer, bytes | bytearray | memoryview | str):
                raise self._misfit("encode", f"a pair is (bytes or text, content type), found {type(answer).__name__}")
        try:
            if not isinstance(answer, bytes | bytearray | memoryview | str):
                return with_json(response, answer)
            response.body = answer.encode() if isinstance(answer, str) else bytes(answer)
            given = content_type or (_TEXT if isinstance(answer, str) else _BYTES)
            response.headers = {"content-type": given, **response.headers}
            return response
        except (TypeError, ValueError) as error:
            raise self._misfit("encode", f"it cannot be sent: {error}") from error

    # -- errors ------------------------------------------------------------------------------------------------------------

    def _failed(self, function: str, error: BaseException) -> ModelFailed:
        where = f"codec '{self.config.codec}' of model '{self.config.name}'"
        log.error("%s failed in %s", where, function, exc_info=error)
        return ModelFailed(f"{where} failed in {function}: {type(error).__name__}: {error}", by_model=True)

    def _misfit(self, function: str, what: str) -> ModelFailed:
        where = f"codec '{self.config.codec}' of model '{self.config.name}'"
        found = ModelFailed(f"{where}: what {function} returned does not fit: {what}", "BAD_OUTPUT")
        log.error("%s", found)
        return found


def is_own(name: str) -> bool:
    """Whether a parameter `codec` names a file."""
    return name.endswith(SUFFIX)


def with_source(config: ModelConfig) -> ModelConfig:
    """The configuration with its codec's file as it is now, so that every process runs the same. InvalidConfig if absent."""
    if not is_own(config.codec):
        return config
    path = _find(config)
    try:
        return replace(config, codec_source=path.read_bytes())
    except OSError as error:
        raise InvalidConfig(f"model '{config.name}': codec '{config.codec}' cannot be read: {error.strerror}") from None


def _load(config: ModelConfig) -> ModuleType:
    """Runs the file as a module of its own. Its folder is not searched for imports, and nothing is written there."""
    config = config if config.codec_source else with_source(config)
    path = _find(config)
    module = ModuleType(f"jitney_codec_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}")
    module.__file__ = str(path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(config.codec_source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        if before is not None:
            sys.modules[module.__name__] = before
        else:
            del sys.modules[module.__name__]
        log.error("model '%s': %s cannot be loaded", config.name, path, exc_info=error)
        raise InvalidConfig(
            f"model '{config.name}': codec '{config.codec}' cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return module


def _find(config: ModelConfig) -> Path:
    """The file in the version's folder, or else in the model's; never outside of the model's, by whatever link."""
    name = f"model '{config.name}': codec '{config.codec}'"
    folders = [Path(folder) for folder in (config.version_directory, config.directory) if folder]
    for folder in folders:
        root = folders[-1] if folder.is_relative_to(folders[-1]) else folder
        try:
            path = inside(root, (folder.relative_to(root) / config.codec).as_posix())
        except InvalidConfig as error:
            raise InvalidConfig(f"{name}: {error}") from None
        if path.is_file():
            return path
    raise InvalidConfig(f"{name}: there is no such file in {' or '.join(map(str, folders)) or 'its folder'}")


def _function(config: ModelConfig, module: ModuleType, name: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        needs = "needs the functions decode(request) and encode(outputs, request)"
        raise InvalidConfig(f"model '{config.name}': codec '{config.codec}' {needs}; it has no '{name}'")
    function: Callable[..., Any] = found
    return function


def _plain(value: Any) -> Any:
    """What `decode` returned as the JSON codec's values: texts and bytes as lists or alone, numbers as they are."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OSU":
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value


def _array(tensor: Tensor) -> Any:
    """An output as `encode` sees it: numpy, BYTES as bytes objects, BF16 as float32."""
    array = tensor.numpy()
    if tensor.datatype == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array
