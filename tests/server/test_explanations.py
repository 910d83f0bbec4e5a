"""Explanations of an archive whose predictions take the fast path: its own handler answers them, in a worker of its own."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jitney.core.errors import Unsupported
from jitney.core.request import Part, Request
from jitney.server.lifecycle.management import Management
from jitney.server.repository.torchserve.model_store import ModelStore
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.serving.deployment import Options
from jitney.server.settings.settings import Settings
from jitney.tests.fakes.plane import LoadedPlane, answers, doubling, loaded
from jitney.tools.archive import ModelArchiverConfig, generate_model_archive

torch = pytest.importorskip("torch")


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    Image.new("RGB", (64, 48), (200, 30, 90)).save(tmp_path / "image.png")
    return (tmp_path / "image.png").read_bytes()


@pytest.fixture
def events() -> list[tuple[str, str, Any]]:
    """(model, kind, payload) of what deployments told."""
    return []


@pytest.fixture
def plane(tmp_path: Path, events: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 224, 224)), tmp_path / "net.pt")
    generate_model_archive(
        ModelArchiverConfig(
            "net", "1.0", "image_classifier", serialized_file=str(tmp_path / "net.pt"), export_path=str(tmp_path / "store")
        )
    )
    store, plane = ModelStore(Settings.load({"model_store": "store"}, {}, tmp_path), gpus=()), LoadedPlane()
    options = Options(on_event=lambda deployment, kind, payload: events.append((deployment.config.name, kind, payload)))
    plane.control.attach(archives=Management(plane.registry, store, options, lambda: None, 10.0))
    yield plane
    plane.control.close()
    plane.close(10.0)
    store.close()


def ask(plane: LoadedPlane, image: bytes, explain: str) -> Any:
    call = plane.predict("net", None, Request(parts=[Part("data", image)], headers={"explain": explain}))
    return json.loads(bytes(next(answers(call, 60)).body or b""))


def batches(events: list[tuple[str, str, Any]]) -> list[Any]:
    """A batch is told of a moment after its answers."""
    until = time.monotonic() + 10
    while not (found := [payload for _, kind, payload in events if kind == "batch"]) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def test_predictions_and_explanations_of_one_archive(
    plane: LoadedPlane, events: list[tuple[str, str, Any]], image: bytes
) -> None:
    plane.control.archives.register(Registration("net.mar", batch_size=4, initial_workers=1))
    assert plane.config("net").codec == "image_classifier"
    predicted = ask(plane, image, "False")
    assert len(predicted) == 5
    assert [(len(batch["durations"]), len(batch["request_ids"])) for batch in batches(events)] == [(3, 1)]
    assert ("net", "workers", {}) in events
    assert len(plane.describe("net")[0].workers) == 1
    explained = ask(plane, image, "True")
    assert (len(explained), len(explained[0]), len(explained[0][0])) == (3, 224, 224)
    assert ask(plane, image, "True") == explained
    assert ask(plane, image, "False") == predicted
    plane.control.archives.unregister("net", None)


def test_models_of_a_repository_have_no_explanations(tmp_path: Path) -> None:
    doubling(tmp_path / "models", "m")
    with loaded(tmp_path / "models") as plane, pytest.raises(Unsupported, match="explanations need a TorchServe archive"):
        plane.predict("m", None, Request(parts=[Part("body", b"[[1, 2]]")], headers={"explain": "True"}))
