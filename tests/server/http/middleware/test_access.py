"""Tokens: nothing is answered without one that is not listed as free, however a path is spelled. CORS and access log."""

import json
import logging
import re
import stat
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest

from jitney.core.errors import InvalidConfig, Unavailable
from jitney.server.http.app import Shared, build
from jitney.server.http.kserve.shm import ClientRegions
from jitney.server.http.middleware.guard import needed
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.http.openapi.page import DOCS
from jitney.server.http.status import FILES
from jitney.tests.fakes.raw_http import Connection

DENIED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
NOT_RENEWED = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    made = Tokens(tmp_path / "key_file.json", 60, now=clock)
    made.publish()
    return made


def keys(tokens: Tokens) -> dict[str, str]:
    assert tokens.path is not None
    return {kind: entry["key"] for kind, entry in json.loads(tokens.path.read_text()).items()}


# -- the keys ------------------------------------------------------------------------------------------------------------


def test_the_key_file_has_torchserve_s_form_and_is_private(tokens: Tokens) -> None:
    assert tokens.path is not None
    document = json.loads(tokens.path.read_text())
    assert list(document) == ["management", "inference", "API"]
    assert list(document["management"]) == ["key", "expiration time"] and list(document["API"]) == ["key"]
    assert document["inference"]["expiration time"] == "2023-11-14T23:13:20.000000Z"
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert list(tokens.path.parent.iterdir()) == [tokens.path]
    tokens.remove_file()
    assert not tokens.path.exists()
    tokens.remove_file()


def test_a_key_file_that_another_server_has_written_since_stays(tokens: Tokens) -> None:
    assert tokens.path is not None
    other = Tokens(tokens.path, 60)
    tokens.remove_file()
    other.publish()
    tokens.remove_file()
    assert json.loads(tokens.path.read_text())["API"]
    tokens.path.write_text("no JSON")
    other.remove_file()
    assert tokens.path.exists()


def test_a_server_that_has_not_its_ports_yet_writes_no_keys(tmp_path: Path) -> None:
    Tokens(tmp_path / "key_file.json", 60)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidConfig, match=r"the keys cannot be written into .*nosuch.*JITNEY_TOKEN"):
        Tokens(tmp_path / "nosuch" / "key_file.json", 60).publish()


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer {inference}", True),
        ("Bearer   {inference}", True),
        ("bearer {inference}", False),
        ("Basic {inference}", False),
        ("{inference}", False),
        ("Bearer {inference} ", False),
        ("Bearer {inference} x", False),
        ("Bearer {management}", False),
        ("Bearer {API}", False),
        ("Bearer ", False),
        ("Bearer \u20ac", False),
        ("", False),
        (None, False),
    ],
)
def test_which_headers_open(tokens: Tokens, header: str | None, allowed: bool) -> None:
    given = None if header is None else header.format(**keys(tokens))
    assert tokens.allows("inference", given) is allowed


def test_keys_expire_and_are_renewed_by_the_api_key(tokens: Tokens, clock: Clock) -> None:
    old = keys(tokens)
    clock.now += 3599
    assert tokens.allows("inference", f"Bearer {old['inference']}")
    clock.now += 1
    assert not tokens.allows("inference", f"Bearer {old['inference']}")
    assert not tokens.renew("inference", f"Bearer {old['management']}")
    assert not tokens.renew("INFERENCE", f"Bearer {old['API']}") and not tokens.renew(None, f"Bearer {old['API']}")
    assert tokens.renew("inference", f"Bearer {old['API']}")
    new = keys(tokens)
    assert new["inference"] != old["inference"] and new["management"] == old["management"] and new["API"] == old["API"]
    assert tokens.allows("inference", f"Bearer {new['inference']}")


def test_a_key_that_cannot_be_written_is_not_renewed(tokens: Tokens, tmp_path: Path) -> None:
    old = keys(tokens)
    assert tokens.path is not None
    tokens.path = tmp_path / "gone" / "key_file.json"
    with pytest.raises(Unavailable, match="the keys cannot be written into"):
        tokens.renew("inference", f"Bearer {old['API']}")
    assert tokens.allows("inference", f"Bearer {old['inference']}")


def test_a_fixed_token_opens_both_and_writes_nothing(tmp_path: Path) -> None:
    tokens = Tokens(None, 60, fixed="a-long-secret")
    assert tokens.allows("inference", "Bearer a-long-secret") and tokens.allows("management", "Bearer a-long-secret")
    assert not tokens.allows("inference", "Bearer a-long-secre")
    assert not tokens.renew("inference", "Bearer a-long-secret")
    with pytest.raises(ValueError, match="key file"):
        Tokens(None, 60)


# -- the choke point -----------------------------------------------------------------------------------------------------

SPELLINGS = (
    "{0}",
    "/{0}",
    "{0}/",
    "{0}//",
    "//{0}",
    "{1}",
    "{2}",
    "{0}?x=/api-description",
    "{0};/api-description",
    "/x/..{0}",
)
INFERENCE = (
    "/ping",
    "/predictions/echo",
    "/predictions/echo/1.0/api-description",
    "/explanations/echo",
    "/invocations",
    "/models/echo/invoke",
    "/echo/predict",
    "/wfpredict/w",
    "/v1/models/echo:predict",
    "/v1/models/echo:explain",
    "/v1/models",
    "/v1/models/echo",
    "/v2/models/echo/explain",
    "/v2",
    "/v2/health/ready",
    "/v2/models/echo/infer",
    "/v2/models/echo",
    "/v2/repository/index",
    "/v2/repository/models/echo/load",
    "/nope",
    "/",
    "/metrics",
)
MANAGEMENT = (
    "/models",
    "/models/echo",
    "/models/echo/1.0",
    "/models/echo/1.0/set-default",
    "/v1/models/echo",
    "/workflows",
    "/status.json",
    "/status/try/predictions/echo",
    "/status/try/v2/models/echo/infer",
    "/status/nope",
    "/nope",
    "/",
)


def spelled(path: str) -> list[str]:
    encoded = "/" + "".join(f"%{ord(c):02x}" for c in path[1:])
    dotted = path.replace("/", "/%2e/")
    return [form.format(path, encoded, dotted) for form in SPELLINGS]


@pytest.mark.parametrize(("port", "paths"), [("inference", INFERENCE), ("management", MANAGEMENT)])
def test_no_route_answers_without_a_token_however_it_is_spelled(
    open_site: Any, tokens: Tokens, port: str, paths: tuple[str, ...]
) -> None:
    site = open_site(tokens)
    other = keys(tokens)["management" if port == "inference" else "inference"]
    for path in paths:
        for spelling in spelled(path):
            for method in ("GET", "POST", "BREW"):
                answer = site.ask(port, method, spelling, b"{}")
                assert answer.status == 400, (method, spelling)
                assert DENIED in answer.body.decode(), (method, spelling)
        wrong = site.ask(port, "GET", path, Authorization=f"Bearer {other}")
        assert wrong.status == 400 or path.startswith("/v2/repository"), path
    assert site.plane.calls == [] and site.plane.registered == [] and site.plane.scaled == []


PROBES = (
    "/ping",
    "/ping/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/echo/ready",
    "/v2/models/echo/versions/1/ready",
)


@pytest.mark.parametrize("path", PROBES)
def test_probes_need_no_token_where_the_token_is_the_operator_s(open_site: Any, tokens: Tokens, path: str) -> None:
    """Those who probe send no secrets. TorchServe's keys guard `/ping` as they do there."""
    fixed = "a-long-secret"
    site = open_site(Tokens(None, 60, fixed=fixed), token=fixed)
    bare, known = site.ask("inference", "GET", path), site.ask("inference", "GET", path, Authorization=f"Bearer {fixed}")
    assert (bare.status, bare.body) == (known.status, known.body) and DENIED not in bare.body.decode()
    assert bare.status == 200 or path.startswith("/v2/models")
    assert DENIED in open_site(tokens).ask("inference", "GET", path).body.decode()


def test_nothing_but_probes_is_open_without_the_operator_s_token(open_site: Any) -> None:
    fixed = "a-long-secret"
    site = open_site(Tokens(None, 60, fixed=fixed), token=fixed)
    for port, paths in (("inference", INFERENCE), ("management", MANAGEMENT)):
        for path in set(paths) - {*PROBES, "/v1/models/echo"}:
            for spelling in spelled(path):
                assert DENIED in site.ask(port, "POST", spelling, b"{}").body.decode(), spelling
    assert DENIED in site.ask("inference", "POST", "/ping/predict:predict").body.decode()
    assert DENIED in site.ask("management", "PUT", "/v1/models/echo").body.decode()
    assert site.ask("management", "GET", "/v1/models/echo").status == 200
    assert site.plane.calls == [] and site.plane.registered == [] and site.plane.scaled == []


#: The status page and its files hold no figures: the page asks for the key. What the API is says nothing of this server.
FREE = ("/api-description", "/*", ".*", "/status", FILES, r"/openapi\.json", "/docs", DOCS)


@pytest.mark.parametrize(("port", "paths"), [("inference", INFERENCE), ("management", MANAGEMENT)])
def test_the_route_table_is_walked_whole(open_site: Any, tokens: Tokens, port: Any, paths: tuple[str, ...]) -> None:
    """Every template is asked for without a token, and every pattern matches a path above: no new route is forgotten."""
    site = open_site(tokens)
    app, _ = build([port], site.services, site.web.admission, Shared(ClientRegions()))
    for route in falcon.inspect.inspect_routes(app):
        answer = site.ask(port, "POST", re.sub(r"\{[^}]+\}", "1", route.path), b"{}")
        assert answer.status == 400 and DENIED in answer.body.decode(), route.path
    for sink in falcon.inspect.inspect_sinks(app):
        known = any(re.match(sink.prefix, path) for path in (*paths, "/token"))
        assert known or any(sink.prefix == rf"(?:{pattern})\Z" for pattern in FREE), sink.prefix


@pytest.mark.parametrize("port", ["inference", "management"])
def test_descriptions_need_no_token(open_site: Any, tokens: Tokens, port: str) -> None:
    site = open_site(tokens)
    assert site.ask(port, "OPTIONS", "/").status == 200
    assert site.ask(port, "GET", "/api-description").status == 200
    assert site.ask("metrics", "GET", "/metrics").status == 200


def test_each_key_opens_its_port(open_site: Any, tokens: Tokens) -> None:
    site, known = open_site(tokens), keys(tokens)
    assert site.ask("inference", "GET", "/ping", Authorization=f"Bearer {known['inference']}").status == 200
    assert site.ask("inference", "GET", "/nope", Authorization=f"Bearer {known['inference']}").status == 404
    assert site.ask("management", "GET", "/models", Authorization=f"Bearer {known['management']}").status == 200
    assert site.ask("inference", "GET", "/v2", Authorization=f"Bearer {known['inference']}").status == 200
    loading = site.ask(
        "inference", "POST", "/v2/repository/models/x/load", b"{}", Authorization=f"Bearer {known['inference']}"
    )
    assert loading.status == 400 and json.loads(loading.body) == {"error": DENIED}


def test_renewing_over_http(open_site: Any, tokens: Tokens) -> None:
    site, old = open_site(tokens), keys(tokens)
    for header in ({}, {"Authorization": f"Bearer {old['management']}"}):
        answer = site.ask("management", "GET", "/token?type=inference", **header)
        assert answer.status == 400 and NOT_RENEWED in answer.body.decode()
    answer = site.ask("management", "POST", "/token?type=inference", Authorization=f"Bearer {old['API']}")
    assert (answer.status, answer.body, answer.header("content-type")) == (200, b"\n", "application/json")
    assert keys(tokens)["inference"] != old["inference"]
    assert DENIED in site.ask("inference", "GET", "/ping", Authorization=f"Bearer {old['inference']}").body.decode()


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/models", "management"),
        ("GET", "/models/m", "management"),
        ("PUT", "/models/m/1/set-default", "management"),
        ("POST", "/models/m/invoke", "inference"),
        ("PUT", "/models/m/invoke/set-default", "management"),
        ("GET", "/v1/models/m", "management"),
        ("GET", "/v1/models/m:predict", "inference"),
        ("POST", "/v2/repository/models/m/load", "management"),
        ("GET", "/token", "management"),
        ("GET", "/predictions/m", "inference"),
        ("GET", "/metrics", None),
        ("GET", "/metrics/x", None),
        ("GET", "/metricsx", "inference"),
        ("OPTIONS", "/", None),
        ("OPTIONS", "/models", "management"),
    ],
)
def test_one_port_for_all_asks_for_the_right_key(method: str, path: str, kind: str | None) -> None:
    assert needed(method, path, {"inference", "management", "metrics"}) == kind


# -- CORS, counting, log ---------------------------------------------------------------------------------------------------


def test_cors_headers_are_on_every_answer(open_site: Any) -> None:
    site = open_site(cors_allowed_origin="https://a.example", cors_allowed_methods="GET, POST", cors_allowed_headers="X-A")
    for port, path in (("inference", "/ping"), ("inference", "/nope"), ("inference", "/v2"), ("metrics", "/metrics")):
        headers = dict(site.ask(port, "GET", path).headers)
        assert headers["access-control-allow-origin"] == "https://a.example"
        assert headers["access-control-allow-methods"] == "GET, POST" and headers["access-control-allow-headers"] == "X-A"


CORS = {"cors_allowed_origin": "https://a.example", "cors_allowed_methods": "GET, POST", "cors_allowed_headers": "X-A"}
PREFLIGHT = {"Origin": "https://a.example", "Access_Control_Request_Method": "POST"}


@pytest.mark.parametrize(
    ("port", "paths"), [("inference", INFERENCE), ("management", MANAGEMENT), ("metrics", ("/metrics",))]
)
def test_a_preflight_is_answered_on_every_path_without_a_token(
    open_site: Any, tokens: Tokens, port: str, paths: tuple[str, ...]
) -> None:
    restricted = {"inference": ("x-key", "a"), "model-repository": ("x-key", "a")}
    site = open_site(tokens, **CORS, http_restricted_api=restricted)
    for path in paths:
        answer = site.ask(port, "OPTIONS", path, **PREFLIGHT, Access_Control_Request_Headers="x-a")
        assert (answer.status, answer.body) == (204, b""), path
        assert answer.header("access-control-allow-origin") == "https://a.example"
        assert answer.header("access-control-allow-methods") == "GET, POST"
        assert answer.header("access-control-allow-headers") == "X-A"
    assert site.plane.calls == []


def test_a_preflight_where_only_the_origin_is_set(open_site: Any) -> None:
    site = open_site(cors_allowed_origin="*")
    answer = site.ask("inference", "OPTIONS", "/v2/models/echo/infer", **PREFLIGHT)
    assert answer.status == 204 and answer.header("access-control-allow-origin") == "*"
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert "content-type" in (answer.header("access-control-allow-headers") or "")
    assert site.ask("inference", "POST", "/predictions/echo", b"x").header("access-control-allow-methods") is None


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://a.example"}, {"Access_Control_Request_Method": "POST"}])
def test_other_options_requests_are_the_dialects(open_site: Any, headers: dict[str, str]) -> None:
    site = open_site(**CORS)
    described = site.ask("inference", "OPTIONS", "/predictions/echo", **headers)
    assert described.status == 200 and b"paths" in described.body
    assert site.ask("inference", "OPTIONS", "/v2/models/echo/infer", **headers).status == 405


def test_without_an_allowed_origin_there_is_no_preflight(site: Any) -> None:
    answer = site.ask("inference", "OPTIONS", "/v2/models/echo/infer", **PREFLIGHT)
    assert answer.status == 405 and answer.header("access-control-allow-origin") is None


def test_of_several_origins_the_page_s_own_is_allowed(open_site: Any) -> None:
    site = open_site(cors_allowed_origin="https://a.example, https://b.example")
    for origin, allowed in (
        ("https://b.example", "https://b.example"), ("https://a.example", "https://a.example"), ("https://c.example", None)
    ):  # fmt: skip
        for method, path in (("OPTIONS", "/v2"), ("POST", "/predictions/echo"), ("POST", "/predictions/echo")):
            answer = site.ask("inference", method, path, b"", Origin=origin, Access_Control_Request_Method="POST")
            assert answer.header("access-control-allow-origin") == allowed
            assert answer.header("vary") == "Origin"


def test_a_page_can_read_why_its_request_never_reached_a_route(open_site: Any) -> None:
    site = open_site(**CORS, max_request_size=10)
    for path in ("/predictions/echo", "/v2/models/echo/infer"):
        answer = site.ask("inference", "POST", path, b"x" * 100, Origin="https://a.example")
        assert answer.status == 413 and answer.header("access-control-allow-origin") == "https://a.example"


def test_each_answer_is_a_line_of_the_access_log(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jitney.access"), Connection(site.address("inference")) as connection:
        host, port = connection.sock.getsockname()
        connection.send(b"POST /predictions/no?a=b HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.read()
    (record,) = [r for r in caplog.records if r.name == "jitney.access"]
    text, milliseconds = record.getMessage().rsplit(" ", 1)
    assert text == f'/{host}:{port} "POST /predictions/no?a=b HTTP/1.1" 404' and int(milliseconds) < 5000
