"""`number_of_gpu` for the models of a repository, on a machine that has four GPUs as far as it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server import assembly
from jitney.server.main import Server
from jitney.server.repository.triton import repository
from jitney.server.settings.settings import Settings
from jitney.server.workers import placement
from jitney.tests.fakes.repository import TENSORS, Folder

KINDS = {"any": "", "gpu": "kind: KIND_GPU", "third": "kind: KIND_GPU gpus: [ 2 ]"}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assembly, "machine_gpus", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(repository, "framework_uses_gpus", lambda backend: True)  # torch as it is built for them
    folder = Folder(tmp_path)
    for name, kind in KINDS.items():
        folder.model(name, f'platform: "pytorch_libtorch" {TENSORS} instance_group [ {{ {kind} }} ]', {"1/model.pt": b""})
    return tmp_path


def places(folder: Path, number: str, name: str) -> list[int | None]:
    """The GPUs of the model's workers."""
    server = Server(Settings.load({"model_repository": [str(folder)], "number_of_gpu": number}, {}, folder))
    assert server.repository is not None
    assert server.model_control is not None
    gpus = server.model_control.options.gpus
    assert gpus is not None
    (config,) = server.repository.read(name)
    count = placement.declared(config, gpus)
    return [place.gpu for place in placement.instances(config, count, gpus=gpus, cores=2)]


@pytest.mark.parametrize(("number", "expected"), [("0", [None]), ("1", [0]), ("3", [0, 1, 2]), ("9", [0, 1, 2, 3])])
def test_models_are_placed_on_the_first_so_many(served: Path, number: str, expected: list[int | None]) -> None:
    assert places(served, number, "any") == expected


def test_a_gpu_beyond_that_number_is_refused(served: Path) -> None:
    assert places(served, "3", "third") == [2]
    with pytest.raises(InvalidConfig, match=r"invalid or unsupported gpu id 2\. GPUs that are available: 0, 1;"):
        places(served, "2", "third")
    with pytest.raises(InvalidConfig, match="has kind KIND_GPU but no GPUs are available"):
        places(served, "0", "gpu")


def test_unsaid_all_of_them_are_used() -> None:
    assert assembly.usable_gpus(None) is None
