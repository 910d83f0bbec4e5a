"""The one place where an error becomes a TorchServe answer: status, Java exception name and text (TorchServe 0.12).

TorchServe's texts are kept to the letter where it has one, since scripts compare them; elsewhere the error's own text is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ....core.errors import (
    AlreadyRegistered,
    ArchiveExists,
    DefaultVersionInUse,
    DependencyInstallFailed,
    DownloadFailed,
    InvalidArchive,
    InvalidConfig,
    InvalidParameter,
    InvalidRequest,
    JitneyError,
    LoadFailed,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    NoWorkers,
    PayloadTooLarge,
    QueueFull,
    Restricted,
    SaveFailed,
    Unauthorized,
    Unavailable,
    Unsupported,
    UrlRefused,
    VersionNotFound,
    WorkerDied,
    WorkerTimeout,
)
from ..reasons import REASON, in_one_line
from ..retry import RETRY_AFTER, SECONDS, is_temporary
from ..rules import BadEscape

#: Errors whose reason TorchServe's text leaves out.
WITH_REASONS = (
    ModelFailed,
    WorkerDied,
    LoadFailed,
    NoWorkers,
    InvalidArchive,
    DependencyInstallFailed,
    DownloadFailed,
    SaveFailed,
    UrlRefused,
)
#: How a process that the system killed ends, as Python and as shells report it: usually for want of memory.
KILLED = (-9, 137)
_ARCHIVE_TEXTS = {
    "model_name": "Model name is not defined.",
    "model_version": "Model version is not defined.",
    "runtime": "Runtime is not defined or invalid.",
    "model": "Missing Model entry in manifest file.",
}
_SEQUENCE_HINT = (
    " If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)


class ResourceNotFound(JitneyError):
    """No route has this path."""


class MethodNotAllowed(JitneyError):
    """The path exists and does not answer this method, or the server's configuration does not allow it.

    `allowed` are the methods that it answers, for the header `Allow` that the standard asks for.
    """

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"expected one of {', '.join(allowed)}")
        self.allowed = allowed


class RequestTimeout(JitneyError):
    """The server gave up waiting for something that it had to finish first."""


@dataclass(frozen=True)
class Target:
    """The model and version that the request named, and what it wants of them, for texts."""

    model: str = ""
    version: str | None = None
    verb: str = "inference"


class Problem(NamedTuple):
    """An error as it is sent: `{"code": …, "type": …, "message": …}`."""

    code: int
    type: str
    message: str


NO_TARGET = Target()


def problem(error: Exception, target: Target = NO_TARGET) -> Problem:
    """What TorchServe answers for this error. Unforeseen exceptions give nothing of themselves away."""
    if isinstance(error, JitneyError):
        return _request(error) or _inference(error, target) or _management(error, target) or _other(error)
    return Problem(500, "InternalServerException", "The server met an unforeseen error; its log says more")


def with_reason(found: Problem, error: Exception) -> Problem:
    """The same with what was wrong in its text: for models of a repository, whose users know no text of TorchServe's."""
    match error:
        case NoWorkers() | QueueFull():
            return found._replace(message=str(error))
        case ModelFailed() | WorkerDied():
            reason = (getattr(error, "reason", "") or str(error)).strip()
            if reason and reason not in found.message:
                return found._replace(message=f"{found.message.rstrip('.')}: {reason}")
    return found


def _request(error: JitneyError) -> Problem | None:
    match error:
        case ResourceNotFound():
            text = "Requested resource is not found, please refer to API document."
            return Problem(404, "ResourceNotFoundException", text)
        case MethodNotAllowed():
            text = "Requested method is not allowed, please refer to API document."
            return Problem(405, "MethodNotAllowedException", text)
        case BadEscape():
            return Problem(403, "IllegalArgumentException", str(error))
        case Unauthorized():
            return Problem(400, "InvalidKeyException", str(error))
        case RequestTimeout():
            return Problem(408, "RequestTimeoutException", str(error))
        case Restricted():
            return Problem(403, "ForbiddenException", str(error))
        case PayloadTooLarge():
            return Problem(413, "BadRequestException", str(error))
        case InvalidParameter(value=None):
            return Problem(400, "BadRequestException", f"Parameter {error.name} is required.")
        case InvalidParameter(name="runtime"):
            return Problem(400, "BadRequestException", f"Invalid RuntimeType value: {error.value}")
        case InvalidRequest() | Unsupported():
            return Problem(400, "BadRequestException", str(error))
    return None


def _inference(error: JitneyError, target: Target) -> Problem | None:
    match error:
        case ModelNotFound():
            return Problem(404, "ModelNotFoundException", f"Model not found: {error.model}")
        case VersionNotFound():
            text = f"Model version: {error.version} does not exist for model: {error.model}"
            if target.verb == "set-default":
                text = f"Model version {error.version} does not exist for model {error.model}"
            return Problem(404, "ModelVersionNotFoundException", text)
        case NoWorkers() | QueueFull():
            return Problem(503, "ServiceUnavailableException", no_worker(target))
        case Unavailable() | ModelNotReady():
            return Problem(503, "ServiceUnavailableException", str(error))
        case WorkerTimeout():  # the server ended it itself, however that looks
            return Problem(500, "InternalServerException", "Worker died.")
        case WorkerDied():
            return Problem(507 if error.exit_code in KILLED else 500, "InternalServerException", "Worker died.")
        case ModelFailed():
            return _model_failed(error)
    return None


def _model_failed(error: ModelFailed) -> Problem:
    if error.status:
        status = error.status if 400 <= error.status <= 599 else 500
        return Problem(507 if status == 413 else status, "InternalServerException", str(error))
    if error.code == "OUT_OF_MEMORY":
        return Problem(507, "InternalServerException", "Out of resources")
    if error.code == "INVALID_ARG":
        return Problem(400, "BadRequestException", str(error))
    if error.code == "BAD_OUTPUT" or error.by_model:
        return Problem(503, "InternalServerException", str(error))
    return Problem(503, "InternalServerException", "Prediction failed")


def _management(error: JitneyError, target: Target) -> Problem | None:
    match error:
        case UrlRefused():
            return Problem(404, "ModelNotFoundException", _refused_url(error))
        case DownloadFailed():
            text = f"Failed to download archive from: {error.url}" if error.url else str(error)
            return Problem(400, "DownloadArchiveException", text)
        case SaveFailed():
            text = f"Failed to save model: {error.url}" if error.url else str(error)
            return Problem(500, "InternalServerException", text)
        case ArchiveExists():
            return Problem(500, "InternalServerException", f"Model file already exists {error.filename}")
        case InvalidArchive():
            return Problem(400, "InvalidModelException", _ARCHIVE_TEXTS.get(error.kind) or str(error))
        case DependencyInstallFailed(kind="venv"):
            return Problem(400, "ModelException", f"Virtual environment creation failed for model {error.model}")
        case DependencyInstallFailed():
            return Problem(400, "ModelException", f"Custom pip package installation failed for model {error.model}")
        case AlreadyRegistered():
            text = f"Model version {error.version} is already registered for model {error.model}"
            return Problem(409, "ConflictStatusException", text)
        case DefaultVersionInUse():
            text = f"Cannot remove default version for model {error.model}"
            return Problem(403, "InvalidModelVersionException", text)
        case LoadFailed():
            model, version = error.model or target.model, error.version or target.version or "null"
            text = f"Failed to start workers for model {model} version: {version}"
            return Problem(507 if error.out_of_memory else 500, "InternalServerException", text)
    return None


def _other(error: JitneyError) -> Problem:
    if isinstance(error, InvalidConfig):
        return Problem(400, "BadRequestException", str(error))
    return Problem(500, "InternalServerException", str(error))


def _refused_url(error: UrlRefused) -> str:
    match error.kind:
        case "empty":
            return "empty url"
        case "relative":
            return f"Relative path is not allowed in url: {error.url}"
        case "no_store":
            return "Model store has not been configured."
        case "not_allowed" | "private":
            return f"Given URL {error.url} does not match any allowed URL(s)"
        case "missing" if error.url:
            return f"Model not found at: {error.url}"
    return str(error)


def no_worker(target: Target) -> str:
    """TorchServe's text where no worker can take a request, or its queue is full; the lone quote is TorchServe's too."""
    named = f'Model "{target.model}" Version {target.version}"' if target.version else f'Model "{target.model}"'
    text = f"{named} has no worker to serve {target.verb} request. Please use scale workers API to add workers."
    return text + (_SEQUENCE_HINT if target.verb == "inference" else "")


def problem_headers(error: Exception, told: Problem) -> list[tuple[str, str]]:
    """What goes into the head of an error's answer: the methods that there are, the reason, when to come again."""
    found = []
    if isinstance(error, MethodNotAllowed):
        found.append(("Allow", ", ".join(error.allowed)))
    if reason := _reason(error, told.message):
        found.append((REASON, reason))
    if told.code == 503 and is_temporary(error):
        found.append((RETRY_AFTER, SECONDS))
    return found


def _reason(error: Exception, told: str) -> str:
    """What TorchServe's text leaves out, in one line that a header can carry; "" where it says all."""
    if not isinstance(error, WITH_REASONS):
        return ""
    reason = getattr(error, "reason", "") or str(error)
    return "" if " ".join(reason.split()) in told else in_one_line(reason)
