"""Rules of HTTP that hold whatever parses a request: exactly one host, and `%2F` separates nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jitney.server.http.rules import decoded, host_problem, path_of
from jitney.tests.fakes.raw_http import Answer, Connection

PORTS = (("inference", "/ping"), ("management", "/models"), ("metrics", "/metrics"), ("inference", "/v2/health/live"))


def send(site: Any, port: str, head: str) -> tuple[Answer, bool]:
    """The answer to a head as it stands, and whether the connection ended with it."""
    with Connection(site.address(port)) as connection:
        connection.send(head.replace("\n", "\r\n").encode("latin-1"))
        return connection.read(), connection.closed(0.3)


# -- Host ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "hosts", "problem"),
    [
        ("1.1", ["a.example"], ""),
        ("1.1", ["a_b.example:8080"], ""),
        ("1.1", ["127.0.0.1:80"], ""),
        ("1.1", ["[::1]:8080"], ""),
        ("1.1", ["[fe80::1%25eth0]"], ""),
        ("1.1", ["a%20b"], ""),
        ("1.1", ["a:"], ""),
        ("1.1", [""], ""),
        ("1.0", [], ""),
        ("1.1", [], "Host is missing"),
        ("1.2", [], "Host is missing"),
        ("1.1", ["a", "a"], "Host was sent more than once"),
        ("1.0", ["a", "b"], "Host was sent more than once"),
        ("1.1", ["a b"], "Host is no host name"),
        ("1.1", ["a/b"], "Host is no host name"),
        ("1.1", ["a@b"], "Host is no host name"),
        ("1.1", ["a:b"], "Host is no host name"),
        ("1.1", ["a%2"], "Host is no host name"),
        ("1.1", ["::1"], "Host is no host name"),
        ("1.0", ["a?b"], "Host is no host name"),
    ],
)
def test_which_hosts_a_request_may_name(version: str, hosts: list[str], problem: str) -> None:
    found = host_problem(version, hosts)
    assert found.startswith(problem) and bool(found) == bool(problem)


@pytest.mark.parametrize(("port", "path"), PORTS)
@pytest.mark.parametrize(
    "fields",
    ["Host: one.example\nHost: two.example\n", "Host: same\nX-A: b\nhost: same\n", "", "X-Host: a\n", "Host: a/b\n"],
)
def test_a_request_without_one_right_host_is_refused_on_every_port(site: Any, port: str, path: str, fields: str) -> None:
    """RFC 9112, section 3.2."""
    answer, closed = send(site, port, f"GET {path} HTTP/1.1\n{fields}\n")
    assert (answer.status, closed) == (400, True)


@pytest.mark.parametrize(("port", "path"), PORTS)
def test_one_host_in_any_form_and_none_in_http_1_0_are_right(site: Any, port: str, path: str) -> None:
    for head in (f"GET {path} HTTP/1.0\n\n", f"GET {path} HTTP/1.1\nhOsT:\n\n", f"GET {path} HTTP/1.1\nHost: [::1]:80\n\n"):
        assert send(site, port, head)[0].status == 200, head


def test_a_head_that_was_right_once_does_not_let_a_wrong_one_through(site: Any) -> None:
    head = "POST /predictions/echo HTTP/1.1\nHost: a\nContent-Length: 0\n\n"
    for _ in range(3):
        assert send(site, "inference", head)[0].status == 200
        assert send(site, "inference", head.replace("Host: a\n", "Host: a\nHost: a\n"))[0].status == 400


# -- %2F -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b?c", "/a/b"),
        ("/a%2Fb/c%20d", "/a%2Fb/c d"),
        ("/a%2fb", "/a%2fb"),
        ("/a%252Fb", "/a%2Fb"),
        ("/%41%2F%42#x", "/A%2FB"),
        ("/a%2", "/a%2"),
        ("/%e9", "/é"),
        ("http://host/a%2Fb?x=/c", "/a%2Fb"),
        ("http://host?x=/c", "/"),
        ("http://host#x/c", "/"),
        ("//a%2Fb", "//a%2Fb"),
    ],
)
def test_what_a_target_s_path_is(target: str, path: str) -> None:
    assert decoded(path_of(target)) == path


@pytest.mark.parametrize(
    ("port", "method", "path"),
    [
        ("inference", "POST", "/predictions%2Fecho"),
        ("inference", "POST", "/predictions/echo%2F1.0"),
        ("inference", "POST", "/predictions/echo%2f1.0"),
        ("inference", "GET", "/ping%2Fx"),
        ("inference", "GET", "/v2%2Fhealth/live"),
        ("inference", "GET", "/v2/health%2Flive"),
        ("inference", "GET", "/v2%2Fmodels%2Fstats"),
        ("management", "GET", "/models%2Fecho"),
        ("management", "GET", "/models/echo%2F1.0"),
        ("metrics", "GET", "/metrics%2Fx"),
    ],
)
def test_an_escaped_slash_separates_nothing(site: Any, port: str, method: str, path: str) -> None:
    body = "Content-Length: 0\n" if method == "POST" else ""
    for _ in range(3):  # also where the head is known
        answer, _ = send(site, port, f"{method} {path} HTTP/1.1\nHost: x\n{body}\n")
        assert answer.status == 404, answer
    assert site.plane.calls == []
    plain = path.replace("%2F", "/").replace("%2f", "/")
    assert send(site, port, f"{method} {plain} HTTP/1.1\nHost: x\n{body}\n")[0].status != 404


def test_other_escapes_are_taken_for_what_they_mean(site: Any) -> None:
    answer, _ = send(site, "inference", "POST /predictions/%65cho/1%2E0?a=%2F HTTP/1.1\nHost: x\nContent-Length: 0\n\n")
    assert answer.status == 200
    unknown, _ = send(site, "management", "GET /models/a%2Fb HTTP/1.1\nHost: x\n\n")
    assert json.loads(unknown.body)["message"] == "Model not found: a%2Fb"
