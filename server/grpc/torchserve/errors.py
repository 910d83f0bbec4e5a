"""The one place where an error becomes a status of TorchServe's gRPC services. Texts are those of its REST API.

Description: the text, a line break, the Java class. On the inference port what TorchServe's front end finds itself is INTERNAL,
and what a worker says has a status by its code; on the management port not found is NOT_FOUND, a bad request INVALID_ARGUMENT.
Where TorchServe shows an uncaught exception (UNKNOWN without a text), the status here says what is wrong.
"""

from __future__ import annotations

from ....core import errors
from ...http.torchserve.errors import NO_TARGET, Problem, Target, problem

#: Statuses that a worker's code becomes; other 4xx and 5xx: the last two.
_BY_CODE = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED"}
_BY_CODE |= {413: "RESOURCE_EXHAUSTED", 416: "OUT_OF_RANGE", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED"}
_BY_CODE |= {501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_OTHER_4XX, _OTHER_5XX = "FAILED_PRECONDITION", "INTERNAL"
_PACKAGES = {
    "ModelNotFoundException": "org.pytorch.serve.archive.model",
    "ModelVersionNotFoundException": "org.pytorch.serve.archive.model",
    "InvalidModelException": "org.pytorch.serve.archive.model",
    "InvalidModelVersionException": "org.pytorch.serve.archive.model",
    "ModelException": "org.pytorch.serve.archive.model",
    "DownloadArchiveException": "org.pytorch.serve.archive",
    "ConflictStatusException": "org.pytorch.serve.http",
}


class ModelApiOff(errors.JitneyError):
    """Models may not be registered and unregistered (`enable_model_api`)."""


def inference_status(error: errors.JitneyError, target: Target = NO_TARGET) -> tuple[str, str]:
    """The name of the status and the description, on the inference port."""
    if isinstance(error, errors.Unauthorized | errors.Restricted):
        return "PERMISSION_DENIED", str(error)
    found = problem(error, target)
    if isinstance(error, errors.ModelFailed | errors.WorkerDied):
        asked = getattr(error, "status", 0) == 413  # REST makes 507 of it, gRPC does not (TorchServe)
        return by_code(413 if asked else found.code), f"{found.message}\norg.pytorch.serve.http.InternalServerException"
    if isinstance(error, errors.Cancelled):
        return "CANCELLED", "call already cancelled"
    if isinstance(error, errors.ModelNotFound | errors.VersionNotFound):
        return "INTERNAL", f"{found.message}\n{java_class(found)}"
    if isinstance(error, errors.Unavailable) and not isinstance(error, errors.NoWorkers | errors.QueueFull):
        return "UNAVAILABLE", f"{found.message}\nInternalServerException.()"
    kind = "BadRequestException.()" if found.code < 500 else "InternalServerException.()"
    return "INTERNAL", f"{found.message}\n{kind}"


def management_status(error: errors.JitneyError, target: Target = NO_TARGET) -> tuple[str, str]:
    """The same on the management port."""
    match error:
        case errors.Unauthorized() | errors.Restricted():
            return "PERMISSION_DENIED", str(error)
        case ModelApiOff():
            return "PERMISSION_DENIED", "Model API disabled\norg.pytorch.serve.archive.model.ModelException"
    found = problem(error, target)
    status = {400: "INVALID_ARGUMENT", 403: "FAILED_PRECONDITION", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}.get(found.code)
    if isinstance(error, errors.Unavailable):
        status = "UNAVAILABLE"
    return status or "INTERNAL", f"{found.message}\n{java_class(found)}"


def java_class(found: Problem) -> str:
    """The full name of the class that TorchServe names."""
    return f"{_PACKAGES.get(found.type, 'org.pytorch.serve.http')}.{found.type}"


def by_code(code: int) -> str:
    """The status of a worker's answer with this HTTP status."""
    return _BY_CODE.get(code) or (_OTHER_4XX if code < 500 else _OTHER_5XX)
