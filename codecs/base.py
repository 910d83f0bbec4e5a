"""Codec: one TorchServe-style request to tensors before the batch, tensors to its answer after it.

Codecs run in the server process, in the HTTP thread of their request: `decode` before the request is queued, `encode` when
its result came back. One codec object serves all threads, so it keeps nothing of a request. Pillow and numpy only: the
server process never imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from ..core.errors import InvalidRequest, ModelFailed, Unsupported
from ..core.model_config import ModelConfig
from ..core.request import Part, Response
from ..core.tensor import Tensor

Encode = Callable[[Response], Response]


class Codec(ABC):
    """Decodes requests for, and encodes answers of, one model version. Raises `InvalidConfig` where it cannot serve it."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @abstractmethod
    def decode(self, parts: Sequence[Part], headers: Mapping[str, str]) -> list[Tensor]:
        """The tensors of one request, with a leading batch axis where the model batches.

        Raises `InvalidRequest` naming what is wrong and what was expected.
        """

    def expects(self, tensors: Sequence[Tensor]) -> ModelConfig:
        """The configuration that these tensors, made by `decode`, have to fit: the model's own, or with other datatypes
        where the worker converts them. Clients that bring tensors themselves are held to the model's own."""
        return self.config

    @abstractmethod
    def encode(self, response: Response) -> Response:
        """The response with its `body` (and content type, if any) made from its tensors.

        Raises `ModelFailed` with code BAD_OUTPUT where the model's output does not fit the codec.
        """

    def read(self, parts: Sequence[Part], headers: Mapping[str, str]) -> tuple[list[Tensor], Encode]:
        """The tensors of one request, and what encodes its answer, which may take the form of the question."""
        return self.decode(parts, headers), self.encode


def main_part(parts: Sequence[Part], or_where: str = "") -> Part:
    """The part that carries the input: `data`, or else `body` (TorchServe: `row.get("data") or row.get("body")`).

    Of repeated names the last one counts, and an empty `data` gives way to `body`, as there. Raises `InvalidRequest`, which
    says where else the input may be.
    """
    if len(parts) == 1 and parts[0].name in ("data", "body") and len(parts[0].data):
        return parts[0]
    named = {part.name: part for part in parts}
    for name in ("data", "body"):
        if name in named and len(named[name].data):
            return named[name]
    if "data" in named or "body" in named:
        raise InvalidRequest("the request's body is empty")
    found = ", ".join(f"'{name}'" for name in named) or "none"
    files = any(part.content_type for part in parts)
    hint = "" if files else "; curl -d sends a form, use -T FILE, or -H 'Content-Type: application/json' (text/plain, …)"
    raise InvalidRequest(
        f"expected the input as the request's body or in a form field named 'data'{or_where}, found fields: {found}{hint}"
    )


def refuse_explanation(config: ModelConfig, headers: Mapping[str, str]) -> None:
    """`Unsupported` for TorchServe's /explanations: they need the handler's own code and the model's gradients."""
    if headers.get("explain") == "True":
        raise Unsupported(f"model '{config.name}' offers predictions only; explanations need a handler of its own")


def load_json(data: bytes | bytearray | memoryview, what: str = "the request's body", hint: str = "") -> Any:
    """Parses JSON of any type; `InvalidRequest` with the place of the mistake. Nesting is bounded by the parser (1024)."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not valid JSON: {error}{hint}") from None


def is_json(part: Part) -> bool:
    """Whether a part's content type says that it is JSON."""
    mime = part.content_type.lower()
    return mime in ("application/json", "text/json") or mime.endswith("+json")


def bad_output(config: ModelConfig, what: str) -> ModelFailed:
    """The error for an output that this codec cannot turn into an answer."""
    return ModelFailed(f"the output of model '{config.name}' does not fit codec '{config.codec}': {what}", "BAD_OUTPUT")
