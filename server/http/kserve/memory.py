"""The shared memory routes: system regions, and CUDA regions as a Triton without a GPU answers."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import falcon

from ....core.errors import InvalidRequest
from .documents import Document, checked, parse, unsigned
from .errors import RegionNotFound
from .resource import JSON, Resource, answers_errors, read_body, set_json
from .shm import ClientRegions

#: Bytes of a cudaIpcMemHandle_t.
_CUDA_HANDLE_BYTES = 64


class Status(Resource):
    def __init__(self, regions: ClientRegions) -> None:
        self._regions = regions

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response, region: str | None = None) -> None:
        set_json(resp, self._regions.status(region))


class Register(Resource):
    def __init__(self, regions: ClientRegions, limit: int) -> None:
        self._regions, self._limit = regions, limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, region: str | None = None) -> None:
        if region is None:
            raise InvalidRequest("'region name' is necessary to register system shared memory region")
        document = parse(read_body(req, self._limit))
        key = checked(_field(document, "key"), "key", str)
        size = unsigned(_field(document, "byte_size"), "byte_size")
        self._regions.register(region, key, unsigned(document.get("offset", 0), "offset"), size)
        resp.content_type = JSON


class Unregister(Resource):
    def __init__(self, regions: ClientRegions) -> None:
        self._regions = regions

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, region: str | None = None) -> None:
        self._regions.unregister(region)
        resp.content_type = JSON


def _field(document: Document, name: str) -> Any:
    if name not in document:
        raise InvalidRequest(f"Shared memory register request has no '{name}' field")
    return document[name]


class CudaStatus(Resource):
    """No CUDA region is ever registered, see `CudaRegister`."""

    @answers_errors
    def on_get(self, req: falcon.Request, resp: falcon.Response, region: str | None = None) -> None:
        if region is not None:
            raise RegionNotFound(f"Unable to find cuda shared memory region: '{region}'")
        set_json(resp, [])


class CudaRegister(Resource):
    """Refuses every handle: the process that serves HTTP has no CUDA context in which one could be opened."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, region: str | None = None) -> None:
        if region is None:
            raise InvalidRequest("'region name' is necessary to register cuda shared memory region")
        document = parse(read_body(req, self._limit))
        handle = checked(_field(document, "raw_handle"), "raw_handle", dict)
        unsigned(_field(document, "byte_size"), "byte_size")
        try:
            raw = base64.b64decode(checked(handle.get("b64"), "b64", str), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _CUDA_HANDLE_BYTES:
            raise InvalidRequest("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")
        raise InvalidRequest("failed to register shared memory region: invalid args")


class CudaUnregister(Resource):
    @answers_errors
    def on_post(self, req: falcon.Request, resp: falcon.Response, region: str | None = None) -> None:
        resp.content_type = JSON
