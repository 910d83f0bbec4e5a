"""The OpenAPI document says what the applications answer, no more and no less."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, cast

import falcon.inspect
import pytest
import schemathesis

from jitney.server.http.app import PORTS, Services, Shared, build
from jitney.server.http.kserve.resource import Resource
from jitney.server.http.kserve.shm import ClientRegions
from jitney.server.http.middleware.admission import Admission
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.http.openapi.document import document
from jitney.server.http.openapi.page import FILES, NAMES
from jitney.server.http.torchserve import Port
from jitney.server.metrics import Metrics
from jitney.tests.fakes.frontends import settings
from jitney.tests.fakes.torchserve import FakeTorchServe

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
#: What the package held from which the viewer was taken; see vendor/VERSIONS.md.
VIEWER = "affbd173a65e870e18f392cca963113bcdafb6e50e88cd2f6a834a65b22db94d"
LISTENERS: list[tuple[Port, ...]] = [("inference",), ("management",), ("inference", "management", "metrics"), PORTS[:2]]
#: Every value that a segment of a path may have in these tests.
SEGMENTS = {"model": "m", "version": "1", "path": "rest", "region": "r", "repository": "x", "workflow": "w"}


def app_of(ports: tuple[Port, ...], **values: Any) -> Any:
    plane = cast(Any, FakeTorchServe())
    services = Services(plane, plane, Metrics(), settings(**values))
    return build(ports, services, Admission(1, 1), Shared(ClientRegions()))[0]


def documented(ports: tuple[Port, ...], **values: Any) -> dict[str, Any]:
    found: dict[str, Any] = document(frozenset(ports), settings(**values))["paths"]
    return found


def example(path: str) -> str:
    """A path with something in place of each name."""
    file = "page.css" if path.startswith("/docs") else "page.js"
    return re.sub(r"\{(\w+)\}", lambda found: {**SEGMENTS, "file": file}[found[1]], path)


@pytest.mark.parametrize("ports", LISTENERS, ids=" ".join)
def test_it_is_valid(ports: tuple[Port, ...]) -> None:
    found = document(frozenset(ports), settings())
    schemathesis.openapi.from_dict(found).validate()
    ids = [operation["operationId"] for item in found["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def referred(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
        for value in node.values():
            yield from referred(value)
    elif isinstance(node, list):
        for value in node:
            yield from referred(value)


def test_every_component_is_used() -> None:
    found = document(frozenset(PORTS), settings())
    names = {f"#/components/{kind}/{name}" for kind, entries in found["components"].items() for name in entries}
    assert names - set(referred(found)) == set()


@pytest.mark.parametrize("ports", LISTENERS, ids=" ".join)
def test_falcon_s_routes_are_there_with_their_methods(ports: tuple[Port, ...]) -> None:
    """Those of KServe v2, whose resources know their methods."""
    app, paths = app_of(ports), documented(ports)
    routes = {route.path for route in falcon.inspect.inspect_routes(app)}
    assert routes == {path for path in paths if re.match(r"/v2(?:/|$)", path) and not path.endswith("/explain")}
    for route in routes:
        resource = app._router.find(example(route))[0]
        assert isinstance(resource, Resource)
        assert {method.upper() for method in paths[route]} == set(type(resource).allowed()), route


@pytest.mark.parametrize("ports", LISTENERS, ids=" ".join)
def test_every_other_path_is_answered_by_a_pattern_and_every_pattern_answers_one(ports: tuple[Port, ...]) -> None:
    app, paths = app_of(ports), documented(ports)
    examples = [example(path) for path in paths]
    answering = []
    for path in examples:
        sinks = [pattern.pattern for pattern, *_ in app._sinks if pattern.match(path)]
        if app._router.find(path) is None:
            answering.append(sinks[0])  # the one that was added last
    patterns = {pattern.pattern for pattern, *_ in app._sinks}
    left = {pattern for pattern in patterns - set(answering) if pattern not in (r"(?:.*)\Z", r"/v2(?:/|$)")}
    if "inference" in ports and "management" in ports:
        left = {pattern for pattern in left if pattern != r"(?:/v1/models/(?P<model>[^/]*))\Z"}  # management's comes first
    assert left - {r"(?:/*)\Z"} == set()
    assert r"(?:.*)\Z" not in answering
    assert r"/v2(?:/|$)" not in answering


def test_what_is_switched_off_is_not_there() -> None:
    assert "/status.json" not in documented(("management",), status_page="off")
    assert "post" not in documented(("management",), enable_model_api=False)["/models"]
    assert "/token" not in documented(("management",))
    guarded = document(frozenset({"management"}), settings(disable_token_authorization=False))
    assert "/token" in guarded["paths"]
    assert guarded["security"] == [{"key": []}]
    assert "/metrics" not in documented(("inference",))


# -- over HTTP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["inference", "management"])
def test_the_document_and_its_page_need_no_key(open_site: Any, port: str, tmp_path: Any) -> None:
    site = open_site(Tokens(tmp_path / "key_file.json", 60.0))
    answer = site.ask(port, "GET", "/openapi.json")
    assert answer.status == 200 and answer.header("content-type") == "application/json"
    assert json.loads(answer.body)["info"]["title"] == f"jitney: {port}"
    page = site.ask(port, "GET", "/docs")
    assert page.status == 200 and page.header("content-type") == "text/html; charset=utf-8"
    assert page.header("content-security-policy").startswith("default-src 'self';")
    assert site.ask(port, "POST", "/openapi.json", b"").status == 405
    assert site.ask("metrics", "GET", "/docs").status == 404


def test_the_page_loads_nothing_but_its_own_files(site: Any) -> None:
    html = "".join((FILES / name).read_text() for name in ("docs.html", "landing.html"))
    loaded = re.findall(r'<(?:script|link)[^>]*(?:src|href)="/docs/([^"]+)"', html)
    assert set(loaded) == set(NAMES)
    assert not re.search(r"https?://|<script>|<style>| style=", html.replace("http://…", ""))
    for name in NAMES:
        answer = site.ask("inference", "GET", f"/docs/{name}")
        assert answer.status == 200 and answer.body and answer.header("x-content-type-options") == "nosniff"
    assert site.ask("inference", "GET", "/docs/docs.html").status == 404


def test_the_viewer_is_unchanged() -> None:
    assert hashlib.sha256((FILES / "vendor" / "rapidoc.js").read_bytes()).hexdigest() == VIEWER


def test_a_browser_is_told_what_the_inference_port_is(site: Any) -> None:
    answer = site.ask("inference", "GET", "/", Accept=BROWSER)
    assert answer.status == 200 and answer.header("content-type") == "text/html; charset=utf-8"
    assert b'href="/docs"' in answer.body and b'href="/openapi.json"' in answer.body
    hostile = site.ask("inference", "GET", "/", Accept=BROWSER, Host='"><script>')
    assert hostile.status in (200, 400) and b"<script>" not in hostile.body
    other = site.ask("inference", "GET", "/", Accept="*/*")
    assert (other.status, json.loads(other.body)["type"]) == (405, "MethodNotAllowedException")
    described = site.ask("inference", "OPTIONS", "/", Accept=BROWSER)
    assert json.loads(described.body)["info"]["title"] == "jitney: TorchServe APIs"


def test_where_ports_are_shared_the_status_page_comes_first() -> None:
    found = app_of(("inference", "management"))
    assert next(p.pattern for p, *_ in found._sinks if p.match("/")) == r"(?:/*)\Z"
