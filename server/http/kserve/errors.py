"""The one place where an error becomes a status and a text of Triton's HTTP API.

Codes (Triton): UNKNOWN, INVALID_ARG, ALREADY_EXISTS, CANCELLED 400; NOT_FOUND 404; INTERNAL 500; UNSUPPORTED 501;
UNAVAILABLE 503. Bodies are `{"error": text}`. Where Triton answers 500 to a malformed request, this is 400.
"""

from __future__ import annotations

from ....core import errors

#: Longest error text sent to a client; names in it come from the request and may be of any length.
MAX_TEXT = 8192

#: Codes that a model's own error may carry (`ModelFailed.code`) -> HTTP status.
CODES = {
    "UNKNOWN": 400,
    "INVALID_ARG": 400,
    "ALREADY_EXISTS": 400,
    "CANCELLED": 400,
    "NOT_FOUND": 404,
    "INTERNAL": 500,
    "UNSUPPORTED": 501,
    "UNAVAILABLE": 503,
}


class RouteNotFound(errors.JitneyError):
    """No route of this dialect has such a path."""


class RegionNotFound(errors.JitneyError):
    """No shared memory region is registered under this name."""


class RegionExists(errors.InvalidRequest):
    """A shared memory region is registered under this name already."""


class RegionUnreadable(errors.InvalidRequest):
    """There is no shared memory under this key that the server may open."""


class PlaceTooSmall(errors.InvalidRequest):
    """An output does not fit where in shared memory the client wants it."""


class UnsupportedEncoding(errors.Unsupported):
    """The request's Content-Encoding is none that the server can undo."""


def describe(error: errors.JitneyError, request_id: str = "") -> tuple[int, str]:
    """The HTTP status and text of an error; `request_id` is the id that the client gave, if any."""
    status, text = _describe(error)
    if _identifies(error):
        text = f"[request id: {request_id or '<id_unknown>'}] {text}"
    text = error.context + text
    return status, text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def _identifies(error: errors.JitneyError) -> bool:
    if isinstance(error, errors.InvalidTensor):
        return error.identify
    return isinstance(error, errors.BatchTooWide | errors.QueueFull)


def _describe(error: errors.JitneyError) -> tuple[int, str]:
    match error:
        case errors.Unauthorized():
            return 400, str(error)
        case errors.Restricted():
            return 403, str(error)
        case errors.PayloadTooLarge():
            return 413, str(error)
        case errors.BatchTooWide(model=model, max_rows=max_rows):
            return 400, f"inference request batch-size must be <= {max_rows} for '{model}'"
        case errors.ModelFailed(code=code, status=asked):
            return asked if 400 <= asked <= 599 else CODES.get(code, 500), str(error)
        case errors.ModelNotFound(model=model):
            return 404, f"Request for unknown model: '{model}' is not found"
        case errors.VersionNotFound(model=model, version=version):
            return 404, f"Request for unknown model: '{model}' version {version} is not found"
        case errors.ModelNotReady(model=model, version=None):
            return 404, f"Request for unknown model: '{model}' has no available versions"
        case errors.ModelNotReady(model=model, version=version):
            return 503, f"Request for unknown model: '{model}' version {version} is not at ready state"
        case RouteNotFound() | RegionNotFound():
            return 404, str(error)
        case errors.InvalidRequest() | errors.Cancelled() | errors.InvalidConfig() | errors.LoadFailed():
            return 400, str(error)
        case errors.AlreadyRegistered() | errors.UrlRefused() | errors.InvalidArchive():
            return 400, str(error)
        case errors.Unsupported():
            return 501, str(error)
        case errors.QueueFull():
            return 503, "Exceeds maximum queue size"
        case errors.Unavailable():
            return 503, str(error)
        case _:
            return 500, str(error)
