"""A whole web of listeners on free loopback ports, in front of models that are functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from jitney.server.http.app import Services
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.metrics import Metrics
from jitney.server.settings.addresses import Address, parse_address
from jitney.server.settings.settings import Settings
from jitney.server.web import Web
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.raw_http import Answer, ask
from jitney.tests.fakes.torchserve import FakeTorchServe, echo


def settings(**values: Any) -> Settings:
    any_port = parse_address("http://127.0.0.1:0")
    addresses = {f"{name}_address": any_port for name in ("inference", "management", "metrics")}
    return Settings(**{"disable_token_authorization": True, "http_threads": 4, **addresses, **values})


@dataclass
class Site:
    """A running web: `plane` is what it serves."""

    web: Web
    plane: FakeTorchServe
    metrics: Metrics
    services: Services

    def address(self, port: str) -> Address:
        return self.web.address(cast(Any, port))

    def ask(self, port: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Header names are given with underscores."""
        return ask(self.address(port), method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})


Open = Callable[..., Site]


@pytest.fixture
def open_site() -> Iterator[Open]:
    """Opens sites, and checks at the end that they leave no thread."""
    before, webs = Inventory(), []

    def build(tokens: Tokens | None = None, mode: str = "prometheus", **values: Any) -> Site:
        plane, metrics = FakeTorchServe(), Metrics(mode=mode)
        plane.add("echo", echo)
        services = Services(cast(Any, plane), cast(Any, plane), metrics, settings(**values), tokens)
        web = Web(services)
        webs.append((web, plane))
        web.start()
        return Site(web, plane, metrics, services)

    yield build
    for web, plane in webs:
        for call in plane.calls:
            call.cancel()
        web.close(5)
    assert before.new(kind="thread") == []


@pytest.fixture
def site(open_site: Open) -> Site:
    return open_site()
