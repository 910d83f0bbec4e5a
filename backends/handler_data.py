"""Requests to what a handler gets, and what it returns to answers (contract: TorchServe's otf_message_handler and service)."""

from __future__ import annotations

import importlib
import io
import logging
import sys
from typing import Any

from ..core.request import Failure, Part, Request, Response
from . import handler_json
from .telling import sendable, text_of, trace_of

logger = logging.getLogger(__name__)

BAD_LIST = "Invalid model predict output"
BAD_LENGTH = "number of batch response mismatched"
BAD_ELEMENT = "Unsupported model output data type."
STREAM_HEADER = "ts_stream_next"
_JSON = frozenset((dict, list))  # types that are answered as JSON for certain


class UnsupportedOutput(TypeError):
    """An element that no answer can be made of; the text names its type."""


def row_of(request: Request, decode: bool) -> dict[str, Any]:
    """The request as a handler's dict: one key for each part, the last of repeated names."""
    return {part.name: value_of(part, decode) for part in request.parts}


def value_of(part: Part, decode: bool) -> Any:
    """JSON for exactly application/json, str for text*, a bytearray for all else and for what cannot be decoded."""
    if decode and part.content_type == "application/json":
        try:
            return handler_json.read(part.data)
        except (ValueError, RecursionError) as error:
            logger.warning("'%s' is not valid JSON and stays bytes: %s", part.name, error)
    elif decode and part.content_type.startswith("text"):
        try:
            return bytes(part.data).decode("utf-8")
        except UnicodeDecodeError as error:
            logger.warning("'%s' is not UTF-8 and stays bytes: %s", part.name, error)
    return bytearray(part.data)


def headers_of(request: Request) -> dict[str, Any]:
    """Request headers as handlers see them: a part's content type under its name, then the client's headers."""
    return {**{part.name: {"content-type": part.content_type} for part in request.parts}, **request.headers}


def body_of(element: Any) -> bytes:
    """One returned element as bytes. Raises `UnsupportedOutput`."""
    plain = None if type(element) in _JSON else _plain_body(element)
    if plain is not None:
        return plain
    try:
        return handler_json.pretty(element)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedOutput(f"{BAD_ELEMENT} {type(element).__name__}: {error}") from None


def _plain_body(element: Any) -> bytes | None:
    """Bytes, text and tensors; None for what is answered as JSON."""
    if isinstance(element, bytes | bytearray):
        return bytes(element)
    if isinstance(element, str):
        try:
            return element.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UnsupportedOutput(f"{BAD_ELEMENT} {type(element).__name__}: {error}") from None
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(element, torch.Tensor):
        return None
    buffer = io.BytesIO()
    torch.save(element, buffer)
    return buffer.getvalue()


def response_of(element: Any, processor: Any, final: bool, streamed: bool) -> Response:
    """The answer with what the handler set for it through its context; an exception as element fails this request only."""
    if isinstance(element, Exception):
        return Response(error=failure_of(element))
    try:
        body, status = body_of(element), processor.get_response_status_code()
        status = 200 if status is None else int(status)
    except UnsupportedOutput as error:
        return Response(error=Failure(BAD_ELEMENT, "BAD_OUTPUT", detail=str(error)))
    except (TypeError, ValueError) as error:
        return Response(
            error=Failure("Prediction failed", "BAD_OUTPUT", detail=f"the response status is no number: {error}")
        )
    headers = processor.get_response_headers()
    headers = {str(name): str(value) for name, value in headers.items()} if headers else {}
    if streamed:
        headers[STREAM_HEADER] = "false" if final else "true"
    return Response([], body, status, processor.get_response_status_phrase() or "", headers, final=final)


def failure_of(error: BaseException) -> Failure:
    """An exception as TorchServe tells it to clients; `detail` has the traceback, which the server logs. None for
    PredictionException: that is an answer."""
    if is_prediction_exception(error):
        status: Any = getattr(error, "error_code", 500)
        message = sendable(str(error.message)) if hasattr(error, "message") else text_of(error)
        return Failure(message, status=status if isinstance(status, int) else 500, by_model=True)
    detail = trace_of(error)
    if is_out_of_resources(error):
        return Failure("Out of resources", "OUT_OF_MEMORY", detail=detail)
    return Failure("Prediction failed", detail=detail)


def is_prediction_exception(error: BaseException) -> bool:
    return isinstance(error, importlib.import_module("ts.utils.util").PredictionException)


def is_out_of_resources(error: BaseException) -> bool:
    """TorchServe's rule: a MemoryError, or "CUDA" anywhere in the text."""
    return isinstance(error, MemoryError) or "CUDA" in text_of(error)
