"""Asks a replica's jitney about itself, past any proxy that the environment names."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SECONDS = 5.0


def get_json(url: str, token: str | None = None) -> Any:
    """Raises OSError where it does not answer 200. `token`: where the server wants one, JITNEY_TOKEN."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with _DIRECT.open(urllib.request.Request(url, headers=headers), timeout=_SECONDS) as answer:
        return json.load(answer)


def is_ready(url: str) -> bool:
    """Whether the answer is 200; False too where there is none within 5 s."""
    try:
        with _DIRECT.open(url, timeout=_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
