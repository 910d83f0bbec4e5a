"""Every route of the three ports: from the Falcon applications that answer them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import falcon.inspect

from ....server.http.app import Services, Shared, build
from ....server.http.kserve.shm import ClientRegions
from ....server.http.middleware.admission import Admission
from ....server.http.torchserve import Port
from ....server.metrics import Metrics
from ....server.settings.addresses import parse_address
from ....server.settings.settings import Settings
from . import code, table

HEAD = ("path", "methods", "what it is")

#: TorchServe's routes and the status page: methods, and what they are. Routes that wait for a model take any method.
PATTERNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "inference": {
        "/predictions/{model}[/{version}[/{rest}]]": ("any", "asks a model: [what it takes](predictions.md)"),
        "/explanations/{model}[/{version}[/{rest}]]": ("any", "asks a handler for an explanation"),
        "/v1/models/{model}:predict": ("any", 'KServe v1: `{"instances": […]}`'),
        "/v1/models/{model}:explain": ("any", "KServe v1: an explanation"),
        "/v1/models": ("GET", "KServe v1: the names of the models"),
        "/v1/models/{model}": ("GET", "KServe v1: whether the model takes requests; 503 where not"),
        "/v2/models/{model}/explain": ("any", "TorchServe's: an explanation"),
        "/{model}[/{version}]/predict": ("any", "TorchServe's older way; the query's parameters are inputs too"),
        "/models/{model}/invoke": ("any", "SageMaker's, for one of several models"),
        "/invocations": ("any", "SageMaker's, for the only model, or the one that the query names"),
        "/wfpredict/{workflow}[/…]": ("any", "404: workflows are not served"),
        "/ping[/…]": ("any", "whether every model has its workers: 200 or 500"),
        "/api-description": ("any", "an OpenAPI document of the port; so is `OPTIONS /`"),
        "/openapi.json": ("GET, HEAD", "an OpenAPI 3 document of the port, of both dialects"),
        "/docs": ("GET, HEAD", "a page that shows it"),
        "/docs/{name}": ("GET, HEAD", "its files"),
        "/": ("GET, OPTIONS", "a first page for a browser, an OpenAPI document for OPTIONS"),
    },
    "management": {
        "/models": ("GET, POST", "GET lists models (`limit`, `next_page_token`); POST registers an archive (`url`, …)"),
        "/models/{model}[/{version}[/set-default]]": (
            "GET, PUT, DELETE, OPTIONS",
            "GET describes; PUT scales (`min_worker`, …) or sets the default version; DELETE unregisters; OPTIONS: OpenAPI",
        ),
        "/v1/models/{model}": ("GET", "whether the model has workers"),
        "/token": ("any", "a new key in `key_file.json` (`type=`), where requests need tokens"),
        "/workflows[/{workflow}[/…]]": ("any", "400 or 404: workflows are not served"),
        "/": ("GET, OPTIONS", "[the status page](status.md) for a browser, an OpenAPI document for OPTIONS"),
        "/status": ("GET, HEAD", "the status page"),
        "/status/{name}": ("GET, HEAD", "its files"),
        "/status.json": ("GET, HEAD", "[what the server is doing](status.md)"),
        "/status/try/predictions/{model}[/{version}]": ("any", "what the page's form asks"),
        "/status/try/v2/models/{model}[/versions/{version}]/infer": ("any", "what the page's form asks"),
        "/api-description": ("any", "an OpenAPI document of the port"),
        "/openapi.json": ("GET, HEAD", "an OpenAPI 3 document of the port, of both dialects"),
        "/docs": ("GET, HEAD", "a page that shows it"),
        "/docs/{name}": ("GET, HEAD", "its files"),
    },
    "metrics": {
        "/metrics[/…]": ("any", "[metrics](metrics.md) in Prometheus' text; `name[]` in the query picks some"),
        "/api-description": ("any", "an OpenAPI document of the port"),
        "/": ("OPTIONS", "an OpenAPI document of the port"),
    },
}

#: KServe v2's routes by what follows the model, or by their whole path.
KSERVE: Mapping[str, str] = {
    "/v2": "the server's name, version and extensions",
    "/v2/health/live": "whether the server runs: 200 or 400",
    "/v2/health/ready": "whether requests should be sent: 200 or 400",
    "/v2/models/stats": "statistics of all models",
    "/v2/trace/setting": "trace settings: which requests are traced ([tracing](tracing.md))",
    "/v2/logging": "what is logged",
    "M": "metadata: inputs, outputs, versions",
    "M/ready": "whether the model can answer: 200 or 400",
    "M/config": "its configuration, completed",
    "M/stats": "its statistics: requests, batches by size, times",
    "M/infer": "asks the model: JSON and binary tensors",
    "M/generate": "asks the model with a flat JSON object: one answer",
    "M/generate_stream": "the same, with server-sent events",
    "M/trace/setting": "trace settings of the model",
    "/v2/repository/index": "the models of the repository, with state and reason",
    "/v2/repository/models/{model}/load": "loads a model, with model_control_mode explicit",
    "/v2/repository/models/{model}/unload": "unloads it",
    "/v2/systemsharedmemory/status": "the regions of system shared memory that clients have registered",
    "/v2/systemsharedmemory/register": "registers a region",
    "/v2/systemsharedmemory/unregister": "forgets all regions, or one",
    "/v2/cudasharedmemory/status": "an empty list",
    "/v2/cudasharedmemory/register": "refused: there is no CUDA context in the server",
    "/v2/cudasharedmemory/unregister": "nothing to forget",
}
#: How a Falcon path of several spellings is shown once.
_SPELLINGS = (
    ("/versions/{version}", ""),
    ("/repository/{repository}/", "/repository/"),
    ("/region/{region}/", "/"),
)


def _applications() -> Iterator[tuple[Port, Any]]:
    """The application of each port, with every route that a setting may add; no request is ever sent to it."""
    address = parse_address("http://127.0.0.1:0")
    settings = Settings(address, address, address)
    nothing: Any = _Nothing()
    services = Services(nothing, nothing, Metrics(), settings, tokens=nothing)
    ports: tuple[Port, ...] = ("inference", "management", "metrics")
    for port in ports:
        app, _ = build([port], services, Admission(1, 1), Shared(ClientRegions(False)))
        yield port, app


class _Nothing:
    """Stands for what answers requests, of which none comes."""

    state = 0


def paths(app: Any) -> list[str]:
    """The paths of TorchServe's routes, as people write them. They are sinks of Falcon with regular expressions."""
    return [path for pattern, *_ in app._sinks if (path := readable(pattern.pattern))]


def readable(pattern: str) -> str:
    """`(?:/predictions/(?P<model>[^/]*)(?:/(?P<version>[^/]+))?)\\Z` → `/predictions/{model}[/{version}]`; "" for a catch-all."""
    text = re.sub(r"^\(\?:(.*)\)\\Z$", r"\1", pattern, flags=re.DOTALL)
    text = re.sub(r"\(\?i:([^()]*)\)", r"\1", text)
    text = re.sub(r"\(\?P<default>/set-default\)\?", "[/set-default]", text)
    text = re.sub(r"\(\?P<(\w+)>(?:\[\^/\][*+]|\.\*|[^()]*)\)", r"{\1}", text)
    text = text.replace(r"\.", ".").replace("/[^/]*", "/…").replace("/*", "/").replace("/.*", "/…")
    while (shorter := re.sub(r"\(\?:([^()]*)\)\?", r"[\1]", text)) != text:
        text = shorter
    return "" if text in (".*", "/v2(?:/|$)") or text.startswith("/v2(") else text


def routes(port: str) -> str:
    """The table of one port."""
    app = dict(_applications())[port]
    about = PATTERNS[port]
    found = dict.fromkeys(sorted(paths(app), key=list(about).index))
    return table(HEAD, [(code(path), *about[path]) for path in found])


def kserve() -> str:
    """KServe v2's routes, on the inference port."""
    app = dict(_applications())["inference"]
    found: dict[str, set[str]] = {}
    for route in falcon.inspect.inspect_app(app).routes:
        path = route.path
        for spelling, short in _SPELLINGS:
            path = path.replace(spelling, short)
        methods = {method.method for method in route.methods if _answers(method)}
        found.setdefault(re.sub(r"^/v2/models/\{model\}", "M", path), set()).update(methods)
    rows = [
        (path.replace("M", "/v2/models/{model}", 1), ", ".join(sorted(found[path])), KSERVE[path])
        for path in _ordered(found)
    ]
    return table(HEAD, [(code(path), methods, text) for path, methods, text in rows])


def _answers(method: Any) -> bool:
    return not method.internal and method.method in ("GET", "POST") and "refuse" not in method.function_name


def _ordered(found: Mapping[str, Any]) -> list[str]:
    return sorted(found, key=list(KSERVE).index)
