"""Compose's files: what they name exists. tests/deploy/test_monitoring.py has what is in the dashboard and the alerts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from jitney.server.cli.serve import serve_flags
from jitney.server.settings.problems import access_problems
from jitney.server.settings.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"
DEPLOY = DOCKER.parent / "deploy"
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
    (job,) = read(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"jitney:{settings.metrics_address.port}"]}]
    assert not settings.metrics_address.is_local
    grace = int(services["jitney"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.exit_timeout_secs + 5
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])


def test_the_dashboard_is_found() -> None:
    (source,) = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = read(GRAFANA / "provisioning" / "dashboards" / "jitney.yaml")["providers"]
    mounts = read(DOCKER / "compose.yaml")["services"]["grafana"]["volumes"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in mounts)
    dashboard = json.loads((DEPLOY / "grafana" / "jitney.json").read_text())
    assert dashboard["templating"]["list"][0]["query"] == source["type"]
