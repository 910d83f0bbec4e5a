"""The status page's routes: who gets the page at `/`, what it may load, what needs the key, what it may ask of models."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jitney.core.request import Request, Response
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.http.status.page import FILES, NAMES

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
#: What the packages held from which the files were taken; see vendor/VERSIONS.md.
VENDORED = {
    "htm-preact.js": "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


@pytest.mark.parametrize("path", ["/", "/status"])
def test_a_browser_gets_the_page(site: Any, path: str) -> None:
    answer = site.ask("management", "GET", path, Accept=BROWSER)
    assert answer.status == 200 and answer.header("content-type") == "text/html; charset=utf-8"
    assert answer.body == (FILES / "page.html").read_bytes()
    assert answer.header("content-security-policy").startswith("default-src 'self';")


@pytest.mark.parametrize(
    ("method", "accept"), [("GET", "*/*"), ("GET", "application/json"), ("POST", BROWSER), ("PUT", "*/*")]
)
def test_other_clients_get_torchserve_s_answer(open_site: Any, method: str, accept: str) -> None:
    shown, plain = open_site(), open_site(status_page="off")
    found, wanted = (site.ask("management", method, "/", Accept=accept) for site in (shown, plain))
    assert (found.status, found.body) == (wanted.status, wanted.body) and found.status == 405
    assert [name for name, _ in found.headers] == [name for name, _ in wanted.headers]
    assert shown.ask("management", "OPTIONS", "/", Accept=BROWSER).body == plain.ask("management", "OPTIONS", "/").body


def test_the_page_loads_nothing_but_its_own_files(site: Any) -> None:
    html = (FILES / "page.html").read_text()
    loaded = re.findall(r'(?:src|href)="/status/([^"]+)"', html)
    loaded += re.findall(r'from "/status/([^"]+)"', "".join((FILES / name).read_text() for name in ("page.js", "try.js")))
    assert set(loaded) == set(NAMES)
    assert not re.search(r"<script>|<style>| style=|javascript:", html), "the policy forbids what stands in the page itself"
    for name in NAMES:
        answer = site.ask("management", "GET", f"/status/{name}")
        assert answer.status == 200 and answer.body and answer.header("x-content-type-options") == "nosniff"
    assert site.ask("management", "POST", "/status/page.js", b"").status == 405
    assert site.ask("management", "GET", "/status/page.html").status == 404


@pytest.mark.parametrize("name", VENDORED)
def test_files_of_others_are_unchanged(name: str) -> None:
    data = (FILES / "vendor" / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == VENDORED[name]
    assert f"| {name} |" in (FILES / "vendor" / "VERSIONS.md").read_text()


def test_the_setting_takes_it_all_away(open_site: Any) -> None:
    site = open_site(status_page="off")
    for path in ("/status", "/status.json", "/status/page.js", "/status/try/predictions/echo"):
        assert site.ask("management", "GET", path, Accept=BROWSER).status == 404


def test_figures_need_the_key_and_the_page_asks_for_it(open_site: Any, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "key_file.json", 60)
    tokens.publish()
    site, known = open_site(tokens), json.loads((tmp_path / "key_file.json").read_text())
    assert site.ask("management", "GET", "/status").status == 200
    assert site.ask("management", "GET", "/status/page.js").status == 200
    for path in ("/status.json", "/status/try/predictions/echo", "/"):
        assert site.ask("management", "GET", path, Accept=BROWSER).status == 400
        inference = f"Bearer {known['inference']['key']}"
        assert site.ask("management", "GET", path, Accept=BROWSER, Authorization=inference).status == 400
    management = f"Bearer {known['management']['key']}"
    assert site.ask("management", "POST", "/status/try/predictions/echo", b"x", Authorization=management).body == b"x"


def test_the_inference_port_has_none_of_it(site: Any) -> None:
    for path in ("/status", "/status.json", "/status/page.js", "/status/try/predictions/echo"):
        assert site.ask("inference", "GET", path, Accept=BROWSER).status == 404
    page = site.ask("inference", "GET", "/", Accept=BROWSER)  # says where to go
    assert page.status == 200 and page.body != (FILES / "page.html").read_bytes()


def test_a_try_answers_as_predictions_do_and_says_where_the_time_went(site: Any) -> None:
    tried = site.ask("management", "POST", "/status/try/predictions/echo", b"hello")
    asked = site.ask("inference", "POST", "/predictions/echo", b"hello")
    assert (tried.status, tried.body) == (asked.status, asked.body) == (200, b"hello")
    parts = dict(part.split(";dur=") for part in tried.header("server-timing").split(", "))
    assert list(parts) == ["decode", "queue", "way", "compute", "encode"]
    assert float(parts["queue"]) == 3, "what the fake model's call waited"
    assert asked.header("server-timing") is None


def test_a_try_is_told_what_is_wrong(site: Any) -> None:
    def fails(request: Request) -> Any:
        yield Response(body=b"no", status=418)

    site.plane.add("fails", fails)
    unknown = site.ask("management", "POST", "/status/try/predictions/nope", b"x")
    assert (unknown.status, json.loads(unknown.body)["type"]) == (404, "ModelNotFoundException")
    assert site.ask("management", "POST", "/status/try/predictions/fails/1.0", b"x").status == 418
    missing = site.ask("management", "POST", "/status/try/v2/models/nope/infer", b"{}")
    assert missing.status == 404 and "nope" in json.loads(missing.body)["error"]
