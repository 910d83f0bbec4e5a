"""The one place where an error becomes a status of Triton's gRPC service. Texts are those of its HTTP API (`http.kserve.errors`).

Statuses (Triton): INVALID_ARG is INVALID_ARGUMENT, UNSUPPORTED is UNIMPLEMENTED, the others have the same names.
"""

from __future__ import annotations

from ....core import errors
from ...http.kserve.errors import PlaceTooSmall, RegionExists, RegionNotFound, RegionUnreadable, RouteNotFound, describe

#: Codes that a model's own error may carry -> status.
CODES = {
    "UNKNOWN": "UNKNOWN",
    "INVALID_ARG": "INVALID_ARGUMENT",
    "ALREADY_EXISTS": "ALREADY_EXISTS",
    "CANCELLED": "CANCELLED",
    "NOT_FOUND": "NOT_FOUND",
    "INTERNAL": "INTERNAL",
    "UNSUPPORTED": "UNIMPLEMENTED",
    "UNAVAILABLE": "UNAVAILABLE",
}
#: Statuses of HTTP that a handler's error may ask for -> status; others by their first digit.
_HTTP = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    413: "RESOURCE_EXHAUSTED",
}
_HTTP |= {429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class PollFailed(errors.JitneyError):
    """A model cannot be read from its repository. Behind Triton's words stands the reason, which it leaves to the log."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"failed to load '{model}', failed to poll from model repository: {reason}")
        self.model = model


def status_of(error: errors.JitneyError, request_id: str = "") -> tuple[str, str]:
    """The name of the status, and the text; `request_id` is the id that the client gave, if any."""
    return _status(error), describe(error, request_id)[1]


def _status(error: errors.JitneyError) -> str:
    match error:
        case errors.Unauthorized():
            return "UNAUTHENTICATED"
        case errors.PayloadTooLarge():
            return "RESOURCE_EXHAUSTED"
        case errors.ModelFailed(status=asked) if 400 <= asked <= 599:
            return _HTTP.get(asked, "INVALID_ARGUMENT" if asked < 500 else "INTERNAL")
        case errors.ModelFailed(code=code):
            return CODES.get(code, "INTERNAL")
        case errors.ModelNotReady(version=version):
            return "NOT_FOUND" if version is None else "UNAVAILABLE"
        case errors.ModelNotFound() | errors.VersionNotFound() | RegionNotFound() | RouteNotFound():
            return "NOT_FOUND"
        case errors.AlreadyRegistered() | RegionExists():
            return "ALREADY_EXISTS"
        case errors.Cancelled():
            return "CANCELLED"
        case RegionUnreadable() | PlaceTooSmall():
            return "INTERNAL"
        case errors.InvalidRequest() | errors.InvalidConfig() | errors.LoadFailed():
            return "INVALID_ARGUMENT"
        case errors.UrlRefused() | errors.InvalidArchive():
            return "INVALID_ARGUMENT"
        case errors.Unsupported():
            return "UNIMPLEMENTED"
        case errors.Unavailable() | errors.Restricted():
            return "UNAVAILABLE"
        case _:
            return "INTERNAL"
