"""A web whose front ends are processes of their own, while the scheduler is the test's process and can be looked into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitney.server.frontends.frontend_process import FrontendProcess
from jitney.server.frontends.supervisor import FrontEnds
from jitney.server.http.app import Services
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.lifecycle.management import Management
from jitney.server.metrics import Metrics
from jitney.server.repository.torchserve.model_store import ModelStore
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.serving.deployment import Options
from jitney.server.settings.addresses import Address, parse_address
from jitney.server.settings.settings import Settings
from jitney.server.web import Web
from jitney.tests.fakes.plane import LoadedPlane, loaded
from jitney.tests.fakes.raw_http import Answer, ask
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0


def settings(**values: Any) -> Settings:
    any_port = parse_address("http://127.0.0.1:0")
    addresses = {f"{name}_address": any_port for name in ("inference", "management", "metrics")}
    return Settings(**{"disable_token_authorization": True, "front_ends": 2, "exit_timeout_secs": 10, **addresses, **values})


@dataclass
class House:
    """A running web over real models."""

    web: Web
    plane: LoadedPlane
    metrics: Metrics

    @property
    def fronts(self) -> FrontEnds:
        found = self.web.listeners[0]
        assert isinstance(found, FrontEnds)
        return found

    @property
    def children(self) -> list[FrontendProcess]:
        return [place.child for place in self.fronts._places if place.child is not None]

    @property
    def inference(self) -> Address:
        return self.web.address("inference")

    def ask(self, method: str, path: str, body: bytes | None = None, port: str = "inference", **headers: str) -> Answer:
        """Header names are given with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.web.address(port), method, path, body, named, timeout=PATIENCE)  # type: ignore[arg-type]

    def open_requests(self) -> int:
        return sum(child.session.open for child in self.children)

    def wait_idle(self) -> None:
        """Returns when no process of the server holds anything of a request any more."""
        deployments = self.plane.registry.deployments()
        wait_until(lambda: self.open_requests() == 0, PATIENCE, "the end of every request")
        wait_until(lambda: all(d.arena is None or d.arena.used == 0 for d in deployments), PATIENCE, "the models' memory")
        wait_until(lambda: all(c._replies.used == 0 for c in self.children), PATIENCE, "the answers' memory")


@contextlib.contextmanager
def opened_fronts(
    plane: LoadedPlane, tokens: Tokens | None = None, *, answers: bool = True, **values: Any
) -> Iterator[House]:
    """Opens a web over `plane`; all its front ends answer, unless they cannot."""
    metrics = Metrics(plane.registry.deployments)
    web = Web(Services(plane, plane.control, metrics, settings(**values), tokens, plane.io))
    try:
        web.start()
        if answers:
            web.wait_started()
        yield House(web, plane, metrics)
    finally:
        web.close(5)


@contextlib.contextmanager
def plane_of(models: Path, store: Path | None = None, options: Options | None = None) -> Iterator[LoadedPlane]:
    """The models of a repository and of a store, all of them loaded."""
    with loaded(models, options=options) as plane:
        if store is None:
            yield plane
            return
        shelf = ModelStore(Settings.load({"model_store": str(store)}, {}, store.parent), gpus=())
        management = Management(plane.registry, shelf, Options(io=plane.io), lambda: None, 10.0)
        plane.control.attach(archives=management)
        try:
            for archive in sorted(store.glob("*.mar")):
                management.register(Registration(archive.name, initial_workers=1, synchronous=True))
            yield plane
        finally:
            management.close()
            plane.close(10.0)
            shelf.close()
