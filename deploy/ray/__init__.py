"""jitney on Ray Serve: `serve run jitney.deploy.ray:app model_repository=…` (docs/deploying.md).

    client ── HAProxy (Ray's) ── Ingress ══ HTTP ══ jitney, a child of the actor Replica
                                 balances, tries again    its scheduler, workers and GPUs

Ray Serve places, starts, replaces and scales replicas; requests and answers never enter Ray's object store between the ingress
and a jitney. The ingress is a deployment of its own, so that it outlives a replica that dies with requests, and can ask another
one: an ingress within the replica would save no proxy, and die with it.
Only `application` imports Ray: the rest runs and is tested without.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .application import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("ray", "pydantic"):
            raise
        raise ImportError(f"{error}: install Ray Serve with pip install 'jitney[ray]'") from error
    return app
