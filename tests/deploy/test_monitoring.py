"""The dashboard and the alerts: every expression asks for a series that a real server shows, with labels that it has.

What Prometheus' own tool checks is skipped where that is not installed (Debian: prometheus).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from jitney.tests.fakes.metrics import STARTER, ask_metrics, openmetrics
from jitney.tools.bench.served import serving
from jitney.tools.dev import dashboard

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
#: What Prometheus adds to what it scrapes, and what it makes itself.
ADDED, MADE = {"instance", "job", "le"}, {"up"}
#: Names that TorchServe's and Triton's users ask for, which Prometheus' rules for names are not about.
INHERITED = re.compile(
    r"(?:ts|nv)_\w+|Requests[245]XX|(?:CPU|GPU|Disk|Memory)\w+|GPUMemory\w+|(?:Queue|WorkerThread|WorkerLoad|Handler|Prediction)Time"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no promtool: apt-get install prometheus"
)


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """What a server that traces shows after a request, in both formats."""
    file = tmp_path_factory.mktemp("traces") / "trace.json"
    with serving(STARTER, flags=[f"--trace-config=triton,file={file}"]) as server:
        yield {
            accept: ask_metrics(server, accept) for accept in ("text/plain", "application/openmetrics-text; version=1.0.0")
        }


@pytest.fixture(scope="module")
def series(scrapes: Mapping[str, str]) -> dict[str, set[str]]:
    """The labels of every series that is shown."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, labels in re.findall(r"^([a-zA-Z_]\w*)(?:\{(.*)\})? \S+$", scrapes["text/plain"], re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', labels))
    return found


def expressions() -> dict[str, str]:
    shown = json.loads(dashboard.TARGET.read_text())["panels"]
    panels = [inner for panel in shown for inner in [panel, *panel.get("panels", [])]]
    found = {
        f"{panel['title']} {number}": target["expr"]
        for panel in panels
        for number, target in enumerate(panel.get("targets", []))
    }
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return found | {rule["alert"]: rule["expr"] for rule in rules}


@pytest.mark.parametrize("title", expressions())
def test_an_expression_asks_for_what_there_is(title: str, series: Mapping[str, set[str]]) -> None:
    expression = expressions()[title]
    names = re.findall(r"\b([a-z]+_\w+|up)\b(?=[{\[ )]|$)", re.sub(r'"[^"]*"|by \([^)]*\)|\$__\w+', "", expression))
    asked = [name for name in names if name not in ("histogram_quantile", "clamp_min")]
    assert asked, expression
    for name in asked:
        assert name in MADE or name in series, f"no {name} is shown"
    matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
    known = ADDED.union(*(series.get(name, set()) for name in asked))
    assert matched | grouped <= known, expression


def test_an_expression_s_values_are_values_that_there_are(scrapes: Mapping[str, str]) -> None:
    """Outcomes, states and reasons that no series could have make an alert that never fires."""
    values = set(re.findall(r'(?:outcome|state)="(\w+)"', scrapes["text/plain"]))
    asked = {
        value
        for expression in expressions().values()
        for group in re.findall(r'(?:outcome|state)\s*(?:=~|!=|=)\s*"([^"]+)"', expression)
        for value in group.split("|")
    }
    assert asked and asked <= values


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert dashboard.TARGET.read_text() == dashboard.text(), "run python -m jitney.tools.dev.dashboard"


def test_openmetrics_can_be_read_and_has_the_same_series(scrapes: Mapping[str, str]) -> None:
    plain, other = scrapes.values()
    names = {sample.name for family in openmetrics(other) for sample in family.samples}
    assert names == set(re.findall(r"^([a-zA-Z_]\w*)[{ ]", plain, re.MULTILINE))


def promtool(*arguments: str, given: str = "") -> str:
    done = subprocess.run(["promtool", *arguments], check=False, input=given, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr if done.returncode or "metrics" in arguments else ""


@needs_promtool
def test_prometheus_finds_nothing_wrong_with_the_names_of_our_own(scrapes: Mapping[str, str]) -> None:
    complaints = [line for line in promtool("check", "metrics", given=scrapes["text/plain"]).splitlines() if line]
    assert [line for line in complaints if not INHERITED.fullmatch(line.split()[0])] == []


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(ROOT / "deploy/prometheus/prometheus.yml")),
        ("check", "rules", str(ALERTS)),
        ("test", "rules", str(Path(__file__).parent / "alerts_test.yaml")),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_prometheus_takes_the_files(arguments: Any) -> None:
    assert promtool(*arguments) == ""
