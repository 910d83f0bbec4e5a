"""The repository API: index, load, unload."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import falcon

from ....core.errors import InvalidConfig, InvalidRequest, LoadFailed, ModelNotFound, StepsUnfit, Unsupported
from ....core.names import relative_path, safe_name
from .documents import Document, checked, optional, parse_optional
from .resource import JSON, Resource, answers_errors, read_body, set_json

if TYPE_CHECKING:
    from ...lifecycle.control_plane import ControlPlane

_FILE_PREFIX = "file:"


def refuse_repository(repository: str | None) -> None:
    """Raises Unsupported where a request names one of several repositories."""
    if repository is not None:
        raise Unsupported("'repository_name' specification is not supported")


class Index(Resource):
    def __init__(self, control: ControlPlane, limit: int) -> None:
        self._control, self._limit = control, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, repository: str | None = None) -> None:
        refuse_repository(repository)
        ready_only = optional(parse_optional(read_body(req, self._limit)), "ready", bool, False)
        rows = [
            {"name": entry.name, "version": entry.version, "state": str(entry.state), "reason": entry.reason}
            for entry in self._control.index(ready_only)
        ]
        set_json(resp, [{key: value for key, value in row.items() if value} for row in rows])


#: What the error of workers that could not load begins with already.
_LOAD_FAILED = "load failed for model "


class Load(Resource):
    """Loads a model and answers, with an empty body, when it serves."""

    def __init__(self, control: ControlPlane, limit: int) -> None:
        self._control, self._limit = control, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, repository: str | None = None) -> None:
        refuse_repository(repository)
        safe_name(model)
        config, files = _load_parameters(parse_optional(read_body(req, self._limit)))
        if files and config is None:
            raise InvalidRequest(f"failed to load '{model}': a 'config' parameter is required with 'file:' parameters")
        try:
            self._control.repository.load(model, config, files or None)
        except ModelNotFound:
            raise InvalidRequest(f"{_failed(model, poll=True)}no repository has a model of this name") from None
        except LoadFailed as error:
            raise (error if str(error).startswith(_LOAD_FAILED) else error.within(_failed(model))) from error
        except StepsUnfit as error:
            raise error.within(f"{_LOAD_FAILED}'{model}': ") from error
        except (InvalidConfig, InvalidRequest) as error:
            raise error.within(_failed(model, poll=True)) from error
        resp.content_type = JSON


class Unload(Resource):
    """Stops a model; one that is unknown or unloaded already is no error (Triton)."""

    def __init__(self, control: ControlPlane, limit: int) -> None:
        self._control, self._limit = control, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str, repository: str | None = None) -> None:
        refuse_repository(repository)
        safe_name(model)
        parameters = optional(parse_optional(read_body(req, self._limit)), "parameters", dict, {})
        self._control.repository.unload(model, optional(parameters, "unload_dependents", bool, False))
        resp.content_type = JSON


def _failed(model: str, *, poll: bool = False) -> str:
    """What Triton says of a load that failed, to which the true reason is added. `poll`: the model could not be read at all."""
    return f"failed to load '{model}'{', failed to poll from model repository' if poll else ''}: "


def _load_parameters(document: Document) -> tuple[str | None, dict[str, bytes]]:
    """The override configuration (JSON) and the files of a load request, by path relative to the model's folder."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for name, value in optional(document, "parameters", dict, {}).items():
        if name == "config":
            config = checked(value, name, str)
        elif name.startswith(_FILE_PREFIX):
            path = name.removeprefix(_FILE_PREFIX)
            files[str(relative_path(path, InvalidRequest))] = _decoded(path, value)
        else:
            raise InvalidRequest(f"unexpected parameter '{name}' of a load request; expected 'config' or 'file:<path>'")
    return config, files


def _decoded(path: str, value: Any) -> bytes:
    try:
        return base64.b64decode(checked(value, _FILE_PREFIX + path, str), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"the content of file '{path}' is not valid base64") from None
