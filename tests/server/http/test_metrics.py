"""/metrics over HTTP."""

from typing import Any

import pytest

from jitney.server.settings.addresses import parse_address
from jitney.server.settings.grpc import GrpcSettings
from jitney.tools.bench.ports import free_port

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def test_scraping(site: Any) -> None:
    site.ask("inference", "POST", "/predictions/echo", b"x")
    site.ask("inference", "POST", "/predictions/echo/1.0", b"x")
    site.ask("inference", "POST", "/predictions/nosuch", b"x")
    answer = site.ask("metrics", "GET", "/metrics")
    assert (answer.status, answer.header("content-type")) == (200, TEXT)
    host = f'Hostname="{site.metrics.torchserve.hostname}",'
    lines = answer.body.decode().splitlines()
    assert f'Requests2XX{{Level="Host",{host}}} 2.0' in lines and f'Requests4XX{{Level="Host",{host}}} 1.0' in lines
    total = [line for line in lines if line.startswith("ts_inference_requests_total")]
    assert [line.partition("hostname")[0] for line in total] == [
        'ts_inference_requests_total{model_name="echo",model_version="1.0",',
        'ts_inference_requests_total{model_name="echo",model_version="default",',
    ]
    assert sum(line.startswith("ts_queue_latency_microseconds{") and line.endswith(" 3000.0") for line in lines) == 2


@pytest.mark.parametrize("path", ["/metrics/", "/metrics/x"])
@pytest.mark.parametrize("method", ["POST", "BREW", "OPTIONS"])
def test_any_method_scrapes(site: Any, path: str, method: str) -> None:
    assert b"# TYPE Requests2XX counter" in site.ask("metrics", method, path).body


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_only_get_scrapes_where_triton_is_replaced(open_site: Any, path: str, method: str) -> None:
    site = open_site(model_repository=("/models",), grpc=GrpcSettings(allow=False))
    refused = site.ask("metrics", method, path)
    assert (refused.status, refused.body) == (405, b'{"error":"Method Not Allowed"}')
    assert (refused.header("allow"), refused.header("content-type")) == ("GET", "application/json")
    assert site.ask("metrics", "GET", path).status == 200
    both = open_site(model_repository=("/models",), model_store="/store", grpc=GrpcSettings(allow=False))
    assert both.ask("metrics", method, path).status == 200


def test_a_port_for_inference_and_management_shows_metrics_beside_their_own(open_site: Any) -> None:
    shared = parse_address(f"http://127.0.0.1:{free_port()}")
    site = open_site(inference_address=shared, management_address=shared)
    for port in ("inference", "metrics"):
        answer = site.ask(port, "POST", "/metrics")
        assert (answer.status, answer.header("content-type")) == (200, TEXT)
        assert b"# TYPE Requests2XX counter" in answer.body
    shared = parse_address(f"http://127.0.0.1:{free_port()}")
    site = open_site(inference_address=shared, management_address=shared, enable_metrics_api=False)
    assert site.ask("inference", "GET", "/metrics").status == 404


def test_ports_of_their_own_show_no_metrics(site: Any) -> None:
    assert [site.ask(port, "GET", "/metrics").status for port in ("inference", "management")] == [404, 404]


def test_names_filter(site: Any) -> None:
    site.ask("inference", "GET", "/ping")
    for query in ("name[]=Requests2XX&name[]=Requests4XX", "name%5B%5D=Requests2XX"):
        body = site.ask("metrics", "GET", f"/metrics?{query}").body.decode()
        assert {line.split("{")[0] for line in body.splitlines() if not line.startswith("#")} == {"Requests2XX"}
    assert site.ask("metrics", "GET", "/metrics?name[]=nosuch").body == b""
    assert len(site.ask("metrics", "GET", "/metrics?name=Requests2XX").body) > 1000


def test_log_mode_shows_nothing(open_site: Any) -> None:
    site = open_site(mode="log")
    site.ask("inference", "GET", "/ping")
    answer = site.ask("metrics", "GET", "/metrics")
    assert (answer.status, answer.body, answer.header("content-type")) == (200, b"", TEXT)


def test_only_the_three_counters_in_legacy_mode(open_site: Any) -> None:
    site = open_site(mode="legacy")
    site.ask("inference", "POST", "/predictions/echo", b"x")
    body = site.ask("metrics", "GET", "/metrics").body.decode()
    assert {line.split()[2] for line in body.splitlines() if line.startswith("# TYPE")} == {
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds",
        "ts_queue_latency_microseconds",
    }
