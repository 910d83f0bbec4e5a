"""What a real server shows at /metrics, for files that name its metrics."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from jitney.tools.bench.served import serving

STARTER = Path(__file__).parents[2] / "tools" / "starter"


def scraped() -> str:
    """/metrics of a server that has answered one request."""
    with serving(STARTER) as server:
        picture = (STARTER / "seven.png").read_bytes()
        with urllib.request.urlopen(f"{server.inference}/predictions/digits", data=picture, timeout=60) as answer:
            answer.read()
        with urllib.request.urlopen(f"{server.metrics}/metrics", timeout=60) as answer:
            text: str = answer.read().decode()
    return text


def shown(text: str) -> set[str]:
    """The names of the series in it."""
    return set(re.findall(r"^([a-zA-Z_]\w*)\{", text, re.MULTILINE))
