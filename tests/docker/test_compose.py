"""Compose's files: what they name exists, and a real server has every metric that the dashboard shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from jitney.server.cli.main import serve_flags
from jitney.server.settings.settings import Settings, access_problems
from jitney.tests.fakes.metrics import shown

DOCKER = Path(__file__).parents[2] / "docker"
GRAFANA = DOCKER / "monitoring" / "grafana"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_what_is_mounted_exists() -> None:
    for name, service in read(DOCKER / "compose.yaml")["services"].items():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            assert (DOCKER / source).exists(), (name, volume)


def test_the_server_starts_with_these_arguments_and_prometheus_asks_its_port(tmp_path: Path) -> None:
    services = read(DOCKER / "compose.yaml")["services"]
    command = services["jitney"]["command"]
    assert command[:2] == ["jitney", "serve"]
    settings = Settings.load(serve_flags(command[2:]), {}, tmp_path)
    assert access_problems(settings) == []
    (job,) = read(DOCKER / "monitoring" / "prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"jitney:{settings.metrics_address.port}"]}]
    assert not settings.metrics_address.is_local
    grace = int(services["jitney"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.exit_timeout_secs + 5
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])


def test_the_dashboard_is_found_and_shows_metrics_that_there_are(served_metrics: str) -> None:
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = read(GRAFANA / "provisioning" / "dashboards" / "jitney.yaml")["providers"]
    mounts = read(DOCKER / "compose.yaml")["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in mounts)
    dashboard = json.loads((GRAFANA / "dashboards" / "jitney.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    asked = {name for panel in dashboard["panels"] for target in panel["targets"] for name in names_in(target["expr"])}
    assert len(asked) >= 6 and asked <= shown(served_metrics)


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of PromQL asks for."""
    return set(re.findall(r"\b(?:jitney|nv|ts)_\w+", expression))
