"""The OpenAPI document of one listener: the parts in `parts/` that its ports have, with what all operations have in common.

A part lists paths as OpenAPI does. What it leaves to this file:

    x-versions, x-repositories   the path exists once more with `/versions/{version}`, or with `/{repository}`
    x-needs                      the operation exists only where this is switched on
    x-not-on                     and not on a listener that carries nothing but this port
    parameters of the path, operationId, tags, and the answer `default` to whatever goes wrong
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .... import __version__
from ...settings.settings import Settings

Json = dict[str, Any]
PARTS = Path(__file__).parent / "parts"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
#: Port -> part, tag, and the answer to what goes wrong.
_OF_PORT = {
    "inference": (("kserve", "KServe v2 and Triton", "KServeError"), ("torchserve", "TorchServe and KServe v1", "Error")),
    "management": (("management", "Management", "Error"),),
}
_DESCRIPTION = (
    "jitney serves TorchServe archives and Triton model repositories on the same ports, by the routes of both. Paths under /v2 "
    'answer errors as {"error": text}, all others as {"code", "type", "message"}.'
)


def document(ports: frozenset[str], settings: Settings) -> Json:
    """The document of a listener that carries these ports. It is made anew each time: who gets it may change it."""
    has = {
        "model_api": settings.model_api,
        "tokens": settings.token_auth,
        "status_page": settings.status_page == "on",
        "metrics": "metrics" in ports or (settings.enable_metrics_api and {"inference", "management"} <= ports),
    }
    paths: dict[str, Json] = {}
    for name, tag, error in _parts(ports):
        for path, item in _read(name)["paths"].items():
            for variant in _variants(path, item):
                operations = dict(_operations(variant, item, tag, error, has, ports))
                if operations:
                    paths.setdefault(variant, {}).update(operations)
    components = copy.deepcopy(_read("common")["components"])
    found: Json = {
        "openapi": "3.0.3",
        "info": {"title": f"jitney: {' and '.join(sorted(ports))}", "version": __version__, "description": _DESCRIPTION},
        "tags": [{"name": tag} for _, tag, _ in _parts(ports)],
        "paths": dict(sorted(paths.items())),
        "components": components,
    }
    if settings.token_auth:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _parts(ports: Collection[str]) -> Iterator[tuple[str, str, str]]:
    for port in ("inference", "management"):
        if port in ports:
            yield from _OF_PORT[port]
    yield "common", "This server", "Error"


@lru_cache
def _read(part: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((PARTS / f"{part}.yaml").read_bytes())
    return found


def _variants(path: str, item: Mapping[str, Any]) -> Iterator[str]:
    yield path
    if item.get("x-versions"):
        yield path.replace("/{model}", "/{model}/versions/{version}")
    if item.get("x-repositories"):
        yield path.replace("/repository/", "/repository/{repository}/")


def _operations(
    path: str, item: Mapping[str, Any], tag: str, error: str, has: Mapping[str, bool], ports: Collection[str]
) -> Iterator[tuple[str, Json]]:
    for method in METHODS:
        given = item.get(method)
        if given is None or not has.get(given.get("x-needs", ""), True) or set(ports) == {given.get("x-not-on")}:
            continue
        operation = {key: copy.deepcopy(value) for key, value in given.items() if not key.startswith("x-")}
        names = re.findall(r"\{(\w+)\}", path)
        own = operation.get("parameters", [])
        operation["parameters"] = [*({"$ref": f"#/components/parameters/{name}"} for name in names), *own]
        operation["responses"].setdefault("default", {"$ref": f"#/components/responses/{error}"})
        words = re.findall(r"\w+", path.replace(".", "_")) or ["root"]
        yield method, {"operationId": "_".join([method, *words]), "tags": [tag], **operation}
