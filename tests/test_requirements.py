"""The pinned requirements are what setup.py and requirements/development.in ask for, and name no machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

#: What each file pins of setup.py's extras.
EXTRAS = {
    "requirements.txt": ("torch", "onnx", "tls", "grpc", "otel", "client", "completion"),
    "requirements-gpu.txt": ("gpu", "tls", "grpc", "otel", "client", "completion"),
}


def _declared() -> tuple[list[str], dict[str, list[str]]]:
    """What setup.py requires: always, and by extra."""
    base: list[str] = []
    extras: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BASE":
            base = ast.literal_eval(node.value)
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            extras = ast.literal_eval(node.value)
    return base, extras


def _lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def _pins(name: str) -> dict[str, Requirement]:
    found = [Requirement(line) for line in _lines(ROOT / name)]
    return {canonicalize_name(pin.name): pin for pin in found}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_pins_are_those_of_what_is_asked_for(name: str) -> None:
    base, extras = _declared()
    lines = base + [line for extra in EXTRAS[name] for line in extras[extra]] + _lines(ROOT / "requirements/development.in")
    pins = _pins(name)
    wanted = [Requirement(line) for line in lines]
    assert pins.keys() == {canonicalize_name(requirement.name) for requirement in wanted}
    for requirement in wanted:
        pin = pins[canonicalize_name(requirement.name)]
        ((operator, version),) = [(specifier.operator, specifier.version) for specifier in pin.specifier]
        assert operator == "=="
        assert requirement.specifier.contains(version, prereleases=True), pin
        assert requirement.extras <= pin.extras, pin


@pytest.mark.parametrize("name", EXTRAS)
def test_the_pins_name_no_index_no_hash_and_no_path(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not [word for word in ("://", "--", "sha256", " @ ", "/tmp", "/home") if word in text]


def test_both_files_pin_the_same_versions() -> None:
    cpu, gpu = _pins("requirements.txt"), _pins("requirements-gpu.txt")
    assert cpu.keys() ^ gpu.keys() == {"onnxruntime", "onnxruntime-gpu", "nvidia-ml-py"}
    assert cpu["onnxruntime"].specifier == gpu["onnxruntime-gpu"].specifier
    assert {name: str(cpu[name]) for name in cpu.keys() & gpu.keys()} == {
        name: str(gpu[name]) for name in cpu.keys() & gpu.keys()
    }
