"""Codecs turn one TorchServe-style request into tensors before the batch, and tensors into its answer after it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ..core.errors import InvalidConfig
from ..core.model_config import ModelConfig
from .base import Codec
from .image_classifier import ImageClassifier
from .image_input import ImageCodec
from .image_segmenter import ImageSegmenter
from .json_codec import JsonCodec
from .object_detector import ObjectDetector
from .own import OwnCodec, is_own
from .pixels import DECODE, PARAMETER, Pixels
from .text_classifier import TextClassifier

__all__ = ["CODECS", "Codec", "Pixels", "create", "decodes_in_server", "pixels_of"]

#: What `parameters { key: "codec" … }` may say. Archives name their built-in handlers the same way.
CODECS: dict[str, type[Codec]] = {
    "image_classifier": ImageClassifier,
    "image_segmenter": ImageSegmenter,
    "json": JsonCodec,
    "object_detector": ObjectDetector,
    "text_classifier": TextClassifier,
}


def create(config: ModelConfig) -> Codec:
    """The codec that the model's configuration names. Raises `InvalidConfig` for unknown names and unfit parameters."""
    if is_own(config.codec):
        return OwnCodec(config)
    if config.codec not in CODECS:
        close = difflib.get_close_matches(config.codec, CODECS, n=1)
        raise InvalidConfig(
            f"model '{config.name}': unknown codec '{config.codec}'{f', did you mean {close[0]!r}' if close else ''}; expected "
            f"one of {', '.join(sorted(CODECS))}, or a Python file of the model's folder, such as codec.py"
        )
    return CODECS[config.codec](config)


def decodes_in_server(codec: str, parameters: Mapping[str, str]) -> bool:
    """Whether a model of this codec has its pictures decoded by the server, and not by its workers."""
    return issubclass(CODECS.get(codec, Codec), ImageCodec) and parameters.get(DECODE) != "device"


def pixels_of(config: ModelConfig) -> Pixels | None:
    """What a worker of this model has to normalise, by the same rule as the codec in the server.

    The server does not load a model whose configuration does not fit its codec; elsewhere (`jitney bench`) it may serve tensors
    all the same, unless it asks for normalisation in the worker.
    """
    codec = CODECS.get(config.codec)
    if codec is None or not issubclass(codec, ImageCodec):
        return None
    try:
        return codec.pixels_of(config)
    except InvalidConfig:
        if {PARAMETER, DECODE} & config.parameters.keys():
            raise
        return None
