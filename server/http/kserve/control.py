"""The repository API: index, load, unload."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import falcon

from ...errors import InvalidRequest, Unsupported
from .documents import Document, checked, optional, parse_optional
from .resource import JSON, Resource, answers_errors, read_body, set_json

if TYPE_CHECKING:
    from ...dataplane import DataPlane

#: Model names that may reach a path: one plain name, not only dots.
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.\-]{1,128}")
_FILE_PREFIX = "file:"


class Control(Protocol):
    """Loading and unloading; `server.modelcontrol.ModelControl` is one."""

    def load(self, model: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None: ...

    def unload(self, model: str, dependents: bool = False) -> None: ...


def check_name(name: str) -> str:
    """The name if it is a model's; raises InvalidRequest for what could lead out of the repository."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"invalid model name {name!r}: expected 1 to 128 letters, digits, '_', '-' and '.', and not only dots"
        )
    return name


def _refuse_repository(repository: str | None) -> None:
    if repository is not None:
        raise Unsupported("'repository_name' specification is not supported")


class Index(Resource):
    def __init__(self, dataplane: DataPlane, limit: int) -> None:
        self._dataplane, self._limit = dataplane, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, repository: str | None = None) -> None:
        _refuse_repository(repository)
        ready_only = optional(parse_optional(read_body(req, self._limit)), "ready", bool, False)
        rows = [
            {"name": entry.name, "version": entry.version, "state": str(entry.state), "reason": entry.reason}
            for entry in self._dataplane.index(ready_only)
        ]
        set_json(resp, [{key: value for key, value in row.items() if value} for row in rows])


class Load(Resource):
    """Loads a model and answers, with an empty body, when it serves."""

    def __init__(self, control: Control, limit: int) -> None:
        self._control, self._limit = control, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, repository: str | None = None) -> None:
        _refuse_repository(repository)
        check_name(model)
        config, files = _load_parameters(parse_optional(read_body(req, self._limit)))
        if files and config is None:
            raise InvalidRequest(f"failed to load '{model}': a 'config' parameter is required with 'file:' parameters")
        self._control.load(model, config, files or None)
        resp.content_type = JSON


class Unload(Resource):
    """Stops a model; one that is unknown or unloaded already is no error (Triton)."""

    def __init__(self, control: Control, limit: int) -> None:
        self._control, self._limit = control, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, repository: str | None = None) -> None:
        _refuse_repository(repository)
        check_name(model)
        parameters = optional(parse_optional(read_body(req, self._limit)), "parameters", dict, {})
        self._control.unload(model, optional(parameters, "unload_dependents", bool, False))
        resp.content_type = JSON


def _load_parameters(document: Document) -> tuple[str | None, dict[str, bytes]]:
    """The override configuration (JSON) and the files of a load request, by path relative to the model's folder."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, value in optional(document, "parameters", dict, {}).items():
        if name == "config":
            config = checked(value, name, str)
        elif name.startswith(_FILE_PREFIX):
            path = name.removeprefix(_FILE_PREFIX)
            files[check_path(path)] = _decoded(path, value)
        else:
            raise InvalidRequest(f"unexpected parameter '{name}' of a load request; expected 'config' or 'file:<path>'")
    return config, files


def check_path(path: str) -> str:
    """The path if it is a plain relative one; raises InvalidRequest for what could leave the model's folder."""
    parts = path.split("/")
    if (
        not path
        or len(path) > 1024
        or any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts)
    ):
        raise InvalidRequest(
            f"invalid file path {path!r}: expected a relative path without '.', '..' and control characters"
        )
    return str(PurePosixPath(path))


def _decoded(path: str, value: Any) -> bytes:
    try:
        return base64.b64decode(checked(value, _FILE_PREFIX + path, str), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"the content of file '{path}' is not valid base64") from None
