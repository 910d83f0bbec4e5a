"""The OpenAPI documents that OPTIONS and /api-description give: TorchServe's paths, operations and parameters."""

from __future__ import annotations

from typing import Any

from .... import __version__

TITLE = "jitney: TorchServe APIs"
_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "HTTP status."},
        "type": {"type": "string", "description": "Kind of error."},
        "message": {"type": "string", "description": "What is wrong."},
    },
}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "description": "Result."}}}
_OBJECT, _COUNT, _SWITCH = {"type": "object"}, {"type": "integer"}, {"type": "boolean"}


def _object(required: str, **optional: Any) -> dict[str, Any]:
    """An object with these fields; those of `required` are strings where `optional` does not say otherwise."""
    names = required.split()
    return {"type": "object", "required": names, "properties": dict.fromkeys(names, _TEXT) | optional}


_DOCUMENT = _object("openapi info paths", info=_OBJECT, paths=_OBJECT)
_MODELS = _object("models", nextPageToken=_TEXT, models={"type": "array", "items": _object("modelName modelUrl")})
_WORKER = _object("id startTime status memoryUsage pid gpu gpuUsage", memoryUsage=_COUNT, pid=_COUNT, gpu=_SWITCH)
_DESCRIPTIONS = {
    "type": "array",
    "items": _object(
        "modelName modelVersion modelUrl runtime minWorkers maxWorkers batchSize maxBatchDelay loadedAtStartup workers "
        "jobQueueStatus",
        **dict.fromkeys(
            ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout"), _COUNT
        ),
        loadedAtStartup=_SWITCH,
        workers={"type": "array", "items": _WORKER},
        jobQueueStatus=_object("remainingCapacity pendingRequests", remainingCapacity=_COUNT, pendingRequests=_COUNT),
        customizedMetadata=_OBJECT,
    ),
}
_EXPOSITION = {"text/plain; version=0.0.4; charset=utf-8": {"schema": _TEXT}}
_ERRORS = {
    "400": "A parameter is missing or not valid",
    "404": "No such model or version",
    "408": "Not finished in time",
    "409": "This version is registered already",
    "500": "The server failed",
    "503": "No worker can take the request",
}
_ANY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}

_MODEL = {"in": "path", "name": "model_name", "description": "The model's name.", "required": True, "schema": _TEXT}
_VERSION = {"in": "path", "name": "model_version", "description": "The model's version.", "required": True, "schema": _TEXT}


def _query(name: str, kind: str, about: str, default: str | None = None, required: bool = False) -> dict[str, Any]:
    schema = {"type": kind} if default is None else {"type": kind, "default": default}
    return {"in": "query", "name": name, "description": about, "required": required, "schema": schema}


_SCALE = [
    _query("min_worker", "integer", "Fewest workers.", "1"),
    _query("max_worker", "integer", "Most workers; min_worker where not given.", "1"),
    _query("number_gpu", "integer", "Accepted and ignored.", "0"),
    _query("synchronous", "boolean", "Whether to answer only when the workers are there.", "false"),
    _query("timeout", "integer", "Accepted and ignored.", "-1"),
]
_REGISTER = [
    _query("url", "string", "A file in the model store, an absolute path or a URL.", required=True),
    _query("model_name", "string", "Name to register under; the archive's where not given."),
    _query("handler", "string", "Entry point instead of the archive's."),
    _query("runtime", "string", "Runtime instead of the archive's."),
    _query("batch_size", "integer", "Most requests in a batch.", "1"),
    _query("max_batch_delay", "integer", "Milliseconds that a batch waits for more requests.", "100"),
    _query("response_timeout", "integer", "Seconds after which a worker that does not answer is replaced.", "120"),
    _query("startup_timeout", "integer", "Seconds that a worker may take to load the model.", "120"),
    _query("initial_workers", "integer", "Workers to start.", "0"),
    _query("synchronous", "boolean", "Whether to answer only when the workers are ready.", "true"),
    _query("s3_sse_kms", "boolean", "Whether S3 server-side encryption is asked for.", "false"),
]
_UNREGISTER = [
    _query("synchronous", "boolean", "Accepted and ignored.", "false"),
    _query("timeout", "integer", "Accepted and ignored.", "-1"),
]


def _operation(
    name: str,
    about: str,
    parameters: list[dict[str, Any]] | None = None,
    codes: str = "200 500",
    *,
    binary: bool = False,
    answer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`answer`: the schema of what 200 brings where it is no status."""
    operation: dict[str, Any] = {"description": about, "operationId": name, "parameters": parameters or []}
    if binary:
        operation["requestBody"] = {"description": "What the model expects.", "content": _ANY, "required": True}
    operation["responses"] = {code: _response(code, binary) for code in codes.split()}
    if answer is not None:
        operation["responses"]["200"]["content"] = {"application/json": {"schema": answer}}
    return operation


def _response(code: str, binary: bool) -> dict[str, Any]:
    if code in _ERRORS:
        return {"description": _ERRORS[code], "content": {"application/json": {"schema": _ERROR}}}
    if binary:
        return {"description": "What the model answers.", "content": _ANY}
    about = {"200": "Done", "202": "Accepted, going on", "206": "Not all workers are up yet"}[code]
    return {"description": about, "content": {"application/json": {"schema": _STATUS}}}


def _document(paths: dict[str, Any], title: str = TITLE, version: str = __version__) -> dict[str, Any]:
    return {"openapi": "3.0.1", "info": {"title": title, "version": version}, "paths": paths}


def _described() -> dict[str, Any]:
    return {"/": {"options": _operation("apiDescription", "This document.", answer=_DOCUMENT)}}


def _common() -> dict[str, Any]:
    described = _operation("api-description", "This document; OPTIONS / is the newer way.", answer=_DOCUMENT)
    return {"/api-description": {"get": {**described, "deprecated": True}}, **_metrics()}


def _metrics() -> dict[str, Any]:
    names = _query("name[]", "string", "Names of the metrics wanted; may be repeated.")
    operation = _operation("metrics", "Metrics in Prometheus' text format.", [names])
    operation["responses"]["200"]["content"] = _EXPOSITION
    return {"/metrics": {"get": operation}}


def _predict(*parameters: dict[str, Any], name: str = "predictions") -> dict[str, Any]:
    return {"post": _operation(name, "Asks the model.", list(parameters), "200 404 500 503", binary=True)}


def inference() -> dict[str, Any]:
    """The inference port's document."""
    paths = {
        **_described(),
        "/ping": {"get": _operation("ping", "Whether the models have the workers that they should have.")},
        "/v1/models/{model_name}:predict": _predict(_MODEL),
        "/v2/models/{model_name}/infer": _predict(_MODEL),
        "/predictions/{model_name}": _predict(_MODEL),
        "/predictions/{model_name}/{model_version}": _predict(_MODEL, _VERSION, name="version_predictions"),
        **_common(),
    }
    return _document(paths)


def management() -> dict[str, Any]:
    """The management port's document."""
    listed = [
        _query("limit", "integer", "Most models in the answer, up to 100.", "100"),
        _query("next_page_token", "string", "Where to go on: nextPageToken of the answer before."),
    ]
    models = {
        "get": _operation("listModels", "The registered models.", listed, answer=_MODELS),
        "post": _operation("registerModel", "Registers a model.", _REGISTER, "200 202 206 400 404 409 500"),
    }
    return _document({**_described(), "/models": models, **_model_paths(), **_common()})


def _model_paths() -> dict[str, Any]:
    paths = {
        "/models/{model_name}": _model_operations("", [_MODEL]),
        "/models/{model_name}/{model_version}": _model_operations("version_", [_MODEL, _VERSION]),
    }
    chosen = _operation("setDefault", "Makes a version the default one.", [_MODEL, _VERSION], "200 404 500")
    return {**paths, "/models/{model_name}/{model_version}/set-default": {"put": chosen}}


def _model_operations(prefix: str, path: list[dict[str, Any]]) -> dict[str, Any]:
    scaled = _operation(
        f"{prefix}setAutoScale", "Changes the number of workers.", [*path, *_SCALE], "200 202 206 400 404 500"
    )
    removed = _operation(f"{prefix}unregisterModel", "Removes it.", [*path, *_UNREGISTER], "200 202 404 408 500")
    return {
        "get": _operation(f"{prefix}describeModel", "Its settings and workers.", path, "200 404 500", answer=_DESCRIPTIONS),
        "put": scaled,
        "delete": removed,
    }


def metrics() -> dict[str, Any]:
    """The metrics port's document."""
    return _document(_metrics())


def prediction(model: str) -> dict[str, Any]:
    """One model's document on the inference port. `/prediction/…` is TorchServe's slip, kept since tools may look for it."""
    operation = _operation(model, f"Asks the model {model}.")
    del operation["responses"]["200"]["content"]
    paths = (f"/prediction/{model}", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer")
    return _document({path: {"post": operation} for path in paths}, f"RESTful API for: {model}", "1.0.0")


def model_management(model: str) -> dict[str, Any]:
    """One model's document on the management port."""
    return _document(_model_paths(), f"RESTful Management API for: {model}")
