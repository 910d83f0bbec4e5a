"""What can go wrong, as classes that know their meaning.

No HTTP status stands here: each dialect maps classes to its own statuses and texts in one place, from the attributes
below. Message text is for people and is never inspected by code.
"""

from __future__ import annotations


class JitneyError(Exception):
    """Base of every error a client or an operator may see; `str(error)` says what is wrong and what was expected.

    `context` says where it happened when that is not plain ("in ensemble 'E', "); dialects put it before their text.
    """

    context: str = ""

    def within(self, context: str) -> JitneyError:
        """A copy of this error, seen from further outside; several requests may share the original."""
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__, context=context + self.context)
        copy.args = self.args
        return copy


class InvalidRequest(JitneyError):
    """The client's request cannot be understood or does not fit the model."""


class Unauthorized(JitneyError):
    """The request does not carry the token that it needs."""


class Restricted(JitneyError):
    """The request does not carry the header that its group of routes needs."""


class InvalidTensor(InvalidRequest):
    """A tensor of the request has a wrong name, datatype, shape or byte count.

    `identify` is true where Triton's text begins with the request's id; its dialect adds that.
    """

    def __init__(self, message: str, identify: bool = True) -> None:
        super().__init__(message)
        self.identify = identify


class BatchTooWide(InvalidRequest):
    """A single request carries more rows than the model's `max_batch_size`."""

    def __init__(self, model: str, rows: int, max_rows: int) -> None:
        super().__init__(f"inference request batch-size must be <= {max_rows} for '{model}', got {rows}")
        self.model, self.rows, self.max_rows = model, rows, max_rows


class PayloadTooLarge(InvalidRequest):
    """The body, as sent or after decompression, is over the configured limit."""


class Unsupported(JitneyError):
    """Understood, and deliberately not offered for this model or at all."""


class ModelNotFound(JitneyError):
    """No model of this name is known."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model '{model}' is not found")
        self.model = model


class VersionNotFound(JitneyError):
    """The model is known, this version of it is not served."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"model '{model}' has no version '{version}'")
        self.model, self.version = model, version


class ModelNotReady(JitneyError):
    """The model is known and cannot answer now: loading, unloaded, or failed for `reason`."""

    def __init__(self, model: str, version: str | None, reason: str) -> None:
        super().__init__(f"model '{model}' is not ready: {reason}")
        self.model, self.version, self.reason = model, version, reason


class Unavailable(JitneyError):
    """The server is healthy and cannot take this request now; the client may try again."""


class QueueFull(Unavailable):
    """The model's queue, or the front end's share of threads, holds as many requests as it may."""


class HoldsTooMuch(Unavailable):
    """All connections together have the server hold as much data as it may."""


class NoWorkers(Unavailable):
    """The model is registered and has no worker (scaled to 0, or all of them gave up)."""


class QueueTimeout(Unavailable):
    """The request waited in the queue until its deadline; it never ran."""


class Draining(Unavailable):
    """The server or this model is stopping and accepts nothing new."""


class Cancelled(JitneyError):
    """The client went away, or cancelled."""


class WorkerDied(JitneyError):
    """The worker process that held the request ended before it answered."""

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WorkerTimeout(WorkerDied):
    """The worker did not answer within `response_timeout` and was replaced."""


class ModelFailed(JitneyError):
    """The model's own code refused or failed this request.

    `code` is one of Triton's names (INTERNAL, INVALID_ARG, NOT_FOUND, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS,
    CANCELLED, UNKNOWN), OUT_OF_MEMORY, or BAD_OUTPUT (the model answered with something that cannot be sent).
    `status` is the HTTP status that TorchServe's `PredictionException` asked for, else 0. `by_model` is true where the
    model reported the error itself (`TritonError`, `PredictionException`) instead of raising something unforeseen. `reason`
    is the exception in one line where the message does not say it.
    """

    def __init__(
        self, message: str, code: str = "INTERNAL", status: int = 0, by_model: bool = False, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.by_model, self.reason = code, status, by_model, reason


class InvalidConfig(JitneyError):
    """A model's or the server's configuration is refused; the text names file, line and field where it can."""


class StepsUnfit(InvalidConfig):
    """The models of an ensemble's steps cannot be loaded, or do not fit together."""


class InvalidParameter(InvalidRequest):
    """A parameter of a request is missing (`value` None) or has a value that is not accepted."""

    def __init__(self, name: str, value: str | None, expected: str) -> None:
        given = "is required" if value is None else f"is {value!r}"
        super().__init__(f"parameter '{name}' {given}: expected {expected}")
        self.name, self.value, self.expected = name, value, expected


class InvalidArchive(JitneyError):
    """A model archive is damaged, unsafe to unpack or incomplete.

    `kind`: "unsafe" (an entry must not be written), "too_large" (more entries or bytes than allowed), "not_archive"
    (another kind of file), "damaged" (cannot be read), "yaml" (model-config.yaml), or what its manifest lacks: "model" (the
    section), "model_name", "model_version", "runtime", "file" (a file that it names). `entry` is the archive's entry or the
    manifest's key, where there is one.
    """

    def __init__(self, message: str, kind: str = "damaged", entry: str = "") -> None:
        super().__init__(message)
        self.kind, self.entry = kind, entry


class UrlRefused(JitneyError):
    """Registering from this URL is not allowed, or there is nothing there.

    `kind`: "empty", "relative" (has `..`), "no_store" (no model store is configured), "not_allowed" (outside
    `allowed_urls`), "private" (its host is not a public address), "missing" (nothing there).
    """

    def __init__(self, message: str, url: str = "", kind: str = "missing") -> None:
        super().__init__(message)
        self.url, self.kind = url, kind


class ArchiveExists(JitneyError):
    """The URL's file name is taken in the model store already."""

    def __init__(self, filename: str) -> None:
        super().__init__(f"the model store already holds '{filename}'")
        self.filename = filename


class DownloadFailed(JitneyError):
    """The URL is allowed and could not be fetched."""

    def __init__(self, message: str, url: str = "") -> None:
        super().__init__(message)
        self.url = url


class SaveFailed(JitneyError):
    """What was fetched or is to be unpacked cannot be written (disk full, store read-only)."""

    def __init__(self, message: str, url: str = "") -> None:
        super().__init__(message)
        self.url = url


class DependencyInstallFailed(JitneyError):
    """What a model's requirements name could not be installed. `kind`: "pip" or "venv"."""

    def __init__(self, model: str, kind: str, reason: str) -> None:
        super().__init__(f"model '{model}': {kind} failed: {reason}")
        self.model, self.kind, self.reason = model, kind, reason


class AlreadyRegistered(JitneyError):
    """This version of this model is registered already."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"version {version} of model '{model}' is already registered")
        self.model, self.version = model, version


class DefaultVersionInUse(JitneyError):
    """The default version cannot be removed while other versions exist."""

    def __init__(self, model: str) -> None:
        super().__init__(f"cannot remove the default version of model '{model}' while it has others")
        self.model = model


class NothingAnswers(JitneyError):
    """The server cannot do what it was started for: none of its requests would be answered."""


class TooFewThreads(NothingAnswers):
    """The system gives this process no further thread; `threads` writes the text."""


class LoadFailed(JitneyError):
    """The model's workers could not load it; the text carries the worker's reason. `model`, `version`: "" where unknown."""

    def __init__(self, message: str, out_of_memory: bool = False, model: str = "", version: str = "") -> None:
        super().__init__(message)
        self.out_of_memory, self.model, self.version = out_of_memory, model, version
