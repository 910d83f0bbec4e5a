"""What a real server shows at /metrics, for files that name its metrics."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jitney.tools.bench.served import ServedProcess, serving

STARTER = Path(__file__).parents[2] / "tools" / "starter"


def scraped() -> str:
    """/metrics of a server that has answered one request."""
    with serving(STARTER) as server:
        return ask_metrics(server)


def ask_metrics(server: ServedProcess, accept: str = "*/*") -> str:
    """What a server with the model `digits` shows after a request, in the format that is asked for."""
    picture = (STARTER / "seven.png").read_bytes()
    with urllib.request.urlopen(f"{server.inference}/predictions/digits", data=picture, timeout=60) as answer:
        answer.read()
    request = urllib.request.Request(f"{server.metrics}/metrics", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def openmetrics(text: str) -> list[Any]:
    """The families of an OpenMetrics text; ValueError where it is none."""
    parse: Any = text_string_to_metric_families
    return list(parse(text))


def shown(text: str) -> set[str]:
    """The names of the series in it."""
    return set(re.findall(r"^([a-zA-Z_]\w*)\{", text, re.MULTILINE))
