"""The image's files, as far as they can be checked without building it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.server.settings.problems import access_problems
from jitney.server.settings.settings import Settings

DOCKER = Path(__file__).parents[2] / "docker"
SCRIPTS = [DOCKER / "build_image.sh", DOCKER / "entrypoint.sh", *sorted((DOCKER / "bin").iterdir())]
DEFAULTS = sorted(path for path in (DOCKER / "defaults").iterdir() if path.name != "none.properties")
INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "EXPOSE", "ENTRYPOINT", "CMD"}


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.partition(" ")
        yield word, rest.strip()


def test_every_instruction_of_the_dockerfile_is_one() -> None:
    assert {word for word, _ in instructions()} <= INSTRUCTIONS
    for word, rest in instructions():
        if word in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)


def test_what_the_dockerfile_copies_exists() -> None:
    copied = [rest.split() for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = [part for parts in copied for part in parts[:-1] if not part.startswith("--")]
    assert "docker/defaults" in sources
    assert [source for source in sources if not (DOCKER.parent / source).exists()] == []


def test_what_is_installed_is_in_the_build_context() -> None:
    taken = {line[1:] for line in (DOCKER.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {path.parent.name for path in DOCKER.parent.glob("*/__init__.py")} - {"tests"}
    assert packages | {"__init__.py", "setup.py", "pyproject.toml", "README.md", "docker"} <= taken
    assert all((DOCKER.parent / name).exists() for name in taken)


def test_the_user_is_named_by_number_and_no_compiler_is_installed() -> None:
    found = list(instructions())
    assert ("USER", "1000") in found  # runAsNonRoot can only be checked for a number
    installed = " ".join(rest for word, rest in found if word == "RUN")
    assert not re.search(r"\b(gcc|g\+\+|build-essential|python3-dev)\b", installed)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_executed_and_have_no_slips(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; the syntax alone was checked")
    done = subprocess.run(["shellcheck", str(script)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("defaults", DEFAULTS, ids=lambda path: path.name)
def test_the_images_addresses_are_decided_about(defaults: Path, tmp_path: Path) -> None:
    flags = {"ts_config": str(DOCKER / "config.properties")}
    settings = Settings.load(flags, {"JITNEY_DEFAULTS": str(defaults)}, tmp_path)
    assert access_problems(settings) == [] and not settings.is_local
    assert settings.token_auth is (defaults.name == "torchserve.properties")
    assert not settings.model_api
    ports = [settings.inference_address.port, settings.management_address.port, settings.metrics_address.port]
    assert ports == [8080, 8081, 8082]


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(DOCKER / "build_image.sh"), *arguments, "--dry-run"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_an_image_for_gpus() -> None:
    said = build("-g", "-cv", "cu128", "-py", "3.13", "-t", "mine:1").stdout
    for part in ("BASE_IMAGE=python:3.13-slim-bookworm", "CUDA_VERSION=cu128", "whl/cu128", "EXTRAS=gpu,", "-t mine:1 ."):
        assert part in said


@pytest.mark.parametrize(
    ("arguments", "wanted", "bound"),
    [
        ([], "--extra-index-url https://download.pytorch.org/whl/cpu /source[torch,onnx,grpc,tls,otel]", ""),
        (
            ["-g"],
            "--extra-index-url https://download.pytorch.org/whl/cu128 /source[gpu,grpc,tls,otel]",
            "onnxruntime-gpu<1.27",
        ),
        (["-g", "-cv", "cu130"], "--extra-index-url https://download.pytorch.org/whl/cu130 /source[gpu,grpc,tls,otel]", ""),
        (["-g", "--pip-options", "--no-index"], "--no-index /source[gpu,grpc,tls,otel]", "onnxruntime-gpu<1.27"),
    ],
)
def test_what_pip_is_asked_for(arguments: list[str], wanted: str, bound: str, tmp_path: Path) -> None:
    """The Dockerfile's own command, with the arguments that build_image.sh passes; `pip` tells what it was asked."""
    said = build(*arguments).stdout
    found = re.findall(r"--build-arg (EXTRAS|TORCH_INDEX|PIP_OPTIONS|CONSTRAINT)=(\S*)", said)
    (command,) = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    command = command.partition(" && ")[2].rpartition(" && ")[0]
    for there, here in (("/home/venv/bin/pip", "echo pip"), ("/constraint.txt", str(tmp_path / "constraint"))):
        assert there in command
        command = command.replace(there, here)
    done = subprocess.run(["sh", "-c", command], env=dict(found), check=True, capture_output=True, text=True)
    options = [
        "--no-cache-dir",
        "--only-binary=:all:",
        "--find-links",
        "/wheelhouse",
        "--constraint",
        str(tmp_path / "constraint"),
    ]
    assert done.stdout.split() == ["pip", "install", *options, *wanted.split()]
    assert (tmp_path / "constraint").read_text() == bound + "\n"  # from 1.27 on, PyPI's builds are for CUDA 13


def test_an_image_for_gpus_has_the_builds_for_cuda() -> None:
    import jitney

    declared = (Path(jitney.__file__).parent / "setup.py").read_text()
    extra = re.search(r'"gpu": \[(.*)\]', declared)
    assert extra is not None
    assert re.findall(r'"([a-z-]+)', extra[1])[:4] == ["nvidia-ml-py", "onnxruntime-gpu", "torch", "safetensors"]
    assert "[cuda,cudnn]" in extra[1]  # CUDA's libraries as wheels: the image's base has none


def test_an_image_for_cpus() -> None:
    said = build().stdout
    for part in (
        "BASE_IMAGE=python:3.12-slim-bookworm",
        "CUDA_VERSION= ",
        "whl/cpu",
        "EXTRAS=torch,",
        "-t jitney:latest-cpu .",
    ):
        assert part in said
    assert "TORCH_INDEX= " in build("--pip-options", "--no-index").stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-g", "-cv", "cu102"], "cu126 cu128 cu130"),
        (["-cv", "cu128"], "-g"),
        (["-py", "3.9"], "3.11"),
        (["-bt", "dev"], "production"),
        (["-b", "master"], "checkout"),
        (["--nosuch"], "--help"),
    ],
)
def test_what_cannot_be_built_is_said(arguments: list[str], reason: str) -> None:
    done = build(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert re.search(reason, done.stderr)
