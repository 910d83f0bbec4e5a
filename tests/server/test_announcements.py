"""The lines that a server prints while it starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jitney.server.announcements import NAMED, LoadReport, announce
from jitney.server.settings.addresses import parse_address
from jitney.server.settings.settings import Settings
from jitney.server.web import Web

PORTS = {"inference": "http://127.0.0.1:8080", "management": "http://127.0.0.1:8081"}


def told(capsys: pytest.CaptureFixture[str], names: list[str], ports: dict[str, str] = PORTS, **flags: Any) -> list[str]:
    addresses = {port: parse_address(address, port) for port, address in ports.items()}
    web = SimpleNamespace(addresses=lambda: list(addresses.items()), address=addresses.__getitem__, grpc_addresses=[])
    announce(cast(Web, web), Settings.load({"no_config_snapshots": True, **flags}, {}), names)
    return capsys.readouterr().out.splitlines()


def test_where_it_listens_and_what_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, ["a", "b"]) == [
        "Inference API bind to: http://127.0.0.1:8080",
        "Management API bind to: http://127.0.0.1:8081",
        "Status page: http://127.0.0.1:8081/status",
        "Loading a, b.",
    ]


def test_a_page_behind_a_socket_file_has_no_address_for_a_browser(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, [], {"management": "unix:/tmp/management.sock"})
    assert lines == ["Management API bind to: unix:/tmp/management.sock", "No model is loaded at the start."]
    assert not any("Status page" in line for line in told(capsys, [], status_page="off"))


def test_many_models_are_counted_and_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"m{n}" for n in range(NAMED + 3)]
    assert told(capsys, names)[-1] == f"Loading {', '.join(names[:NAMED])} and 3 more."


def test_each_model_is_reported_as_it_becomes_ready_or_fails(capsys: pytest.CaptureFixture[str]) -> None:
    report = LoadReport(lambda: False)
    with report.loading(2):
        report("good", "1", None, 0.26)
        report("bad", "", "no weights\n", 0.1)
    assert capsys.readouterr().out.splitlines() == ["good 1: ready after 0.3 s", "bad: FAILED: no weights"]
    assert report.failed == 1


def test_a_server_that_ends_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report = LoadReport(lambda: True)
    report("bad", "1", "stopped while it loaded", 0.1)
    assert (capsys.readouterr().out, report.failed) == ("", 0)
