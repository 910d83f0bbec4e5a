"""A model repository on disk, served by real workers behind the real data plane and, where wanted, the KServe routes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import falcon
import falcon.testing

from jitney.core.request import Request, Response
from jitney.core.tensor import Tensor
from jitney.server.http.engine.listener import Listener
from jitney.server.lifecycle.bls import BlsHost
from jitney.server.lifecycle.model_control import ModelControl
from jitney.server.repository.triton.repository import TritonRepository
from jitney.server.serving.deployment import Options
from jitney.server.settings.addresses import Address
from jitney.tests.fakes.kserve_app import kserve_app
from jitney.tests.fakes.plane import LoadedPlane
from jitney.tests.fakes.recordings import OWN

LIMIT_S = 30.0
LIMIT_BYTES = 1 << 20


@dataclass
class Serving:
    """`app` has the KServe routes; `events` holds what workers emitted."""

    dataplane: LoadedPlane
    app: falcon.App[falcon.Request, falcon.Response]
    events: list[tuple[str, Mapping[str, Any]]]

    def load(self, *names: str) -> None:
        for name in names:
            self.dataplane.load(name)

    def ask(
        self,
        model: str,
        tensors: Sequence[Tensor] = (),
        *,
        outputs: tuple[str, ...] = (),
        request_id: str = "",
        **parameters: Any,
    ) -> list[Response]:
        """All responses to one request; raises its error."""
        request = Request(request_id, list(tensors), parameters=parameters, outputs=outputs)
        return list(self.dataplane.infer(model, None, request).stream(LIMIT_S))

    @property
    def http(self) -> falcon.testing.TestClient:
        return falcon.testing.TestClient(self.app)

    @contextlib.contextmanager
    def listening(self, threads: int = 16) -> Iterator[str]:
        """HOST:PORT of the routes on a real listener."""
        address = Address("http", "127.0.0.1", 0)
        listener = Listener(
            self.app,
            address,
            name="serving",
            threads=threads,
            max_body=LIMIT_BYTES,
            refuse=lambda path, error: ("500", [], b""),
        )
        listener.start()
        try:
            yield f"127.0.0.1:{listener.address.port}"
        finally:
            listener.close(5)


@contextlib.contextmanager
def serving(folder: Path, *names: str, backend_directory: Path | None = None) -> Iterator[Serving]:
    """Serves the repository in `folder` with the named models loaded."""
    dataplane, events = LoadedPlane(), []
    repository = TritonRepository([folder], backend_directory=backend_directory)
    options = Options(
        host=BlsHost(dataplane, dataplane.control),
        on_event=lambda deployment, kind, payload: events.append((kind, payload)),
    )
    dataplane.control.attach(repository=ModelControl(dataplane.registry, repository, dataplane, options, "explicit"))
    app = kserve_app(dataplane, LIMIT_BYTES, control=dataplane.control)
    failed: list[str] = []
    try:
        if names:
            dataplane.model_control.load_all(
                names, lambda model, version, reason, seconds: failed.append(f"{model}: {reason}") if reason else None
            )
        assert not failed, failed
        yield Serving(dataplane, app, events)
    finally:
        dataplane.close(LIMIT_S)
        dataplane.control.close()
        repository.close()


def write_model(folder: Path, name: str, config: str, source: str, version: str = "1", **files: str) -> Path:
    """Writes `name/config.pbtxt`, `name/1/model.py` and other files of the version; returns the model's folder."""
    directory = folder / name / version
    directory.mkdir(parents=True, exist_ok=True)
    (folder / name / "config.pbtxt").write_text(config)
    (directory / "model.py").write_text(source)
    for file, text in files.items():
        (directory / f"{file}.py").write_text(text)
    return folder / name


def conformance_kit() -> Path:
    """The folder of Triton's recordings."""
    return OWN / "triton"
