"""The exchanges recorded from a real Triton, and its batches, against a real server process.

A case that fails must stand in `DEVIATIONS` with the reason; one that stands there and passes must be taken out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from jitney.tests.fakes.serving import conformance_kit
from jitney.tools.bench.served import ServedProcess, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Cases of the recordings that go otherwise here, on purpose.
DEVIATIONS = {
    "metadata__root": "`/` of the shared port is TorchServe's: 405 in its words, as its users expect",
    "metadata__v1_path": "paths outside of /v2 are TorchServe's: 404 in its words",
    "metrics__on_http_port": "metrics have their own port; this path is TorchServe's 404",
}
#: Bursts that close a batch at a change of shape; without --shape-change=flush an odd shape waits in a lane of its own.
BY_FLUSH = {"shape_flushes_not_preferred", "shape_flushes_single", "delay_shapes_alternate"}
LENIENT = ("--strict-readiness=false", "--exit-on-error=false")
EXPLICIT = (*LENIENT, "--model-control-mode=explicit")


@pytest.fixture(scope="module")
def kit() -> Path:
    return conformance_kit()


def authority(url: str) -> str:
    return url.removeprefix("http://")


def replay(kit: Path, server: ServedProcess, folder: Path, *arguments: str) -> dict[str, str]:
    """Runs the kit's replay; the reasons of the cases that fail, by name."""
    results = folder / "results.json"
    command = [sys.executable, str(kit / "replay.py"), "--golden", str(kit / "golden"), "--json", str(results)]
    addresses = ["--http", authority(server.inference), "--metrics", authority(server.metrics)]
    subprocess.run([*command, *addresses, *arguments], cwd=kit, capture_output=True, timeout=200, check=False)
    found: list[dict[str, Any]] = json.loads(results.read_text())
    assert sum(entry["result"] != "skipped" for entry in found) > 0
    return {entry["name"]: entry["reason"] for entry in found if entry["result"] == "failed"}


def bursts(kit: Path, server: ServedProcess, names: Sequence[str]) -> dict[str, str]:
    """Runs bursts of the kit, those of one model after the other; the output of those that fail, twice, by name."""

    def run(name: str) -> str:
        command = [sys.executable, str(kit / "bursts.py"), "--http", authority(server.inference), "--only", name]
        done = subprocess.run(command, cwd=kit, capture_output=True, text=True, timeout=100, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def run_all(names: Sequence[str]) -> dict[str, str]:
        return {name: run(name) for name in names}

    models = [[name for name, _ in group] for _, group in groupby(cases(kit), key=lambda case: case[1])]
    wanted = [[name for name in group if name in names] for group in models]
    with ThreadPoolExecutor(len(wanted)) as pool:
        first = {name: text for found in pool.map(run_all, wanted) for name, text in found.items()}
    assert set(first) == set(names)
    # They are about seconds of a clock: a machine that had no time for one is asked again.
    return {name: text for name in names if first[name] and (text := run(name))}


def cases(kit: Path) -> list[tuple[str, str]]:
    """(case, model) of every burst, sorted by model."""
    script = "import bursts, json; print(json.dumps([(case.name, case.model) for case in bursts.CASES]))"
    done = subprocess.run([sys.executable, "-c", script], cwd=kit, capture_output=True, text=True, check=True)
    return sorted(map(tuple, json.loads(done.stdout)), key=lambda case: case[1])


def small_repository(kit: Path, folder: Path, *models: str) -> Path:
    for model in models:
        (folder / model).symlink_to(kit / "model_repository" / model)
    return folder


def test_every_deviation_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [name for name in DEVIATIONS if f"`{name}`" not in page] == []


def test_replay_and_bursts(kit: Path, tmp_path: Path) -> None:
    flags = (*EXPLICIT, "--load-model=*", "--cache-config=local,size=1048576")
    with serving(kit / "model_repository", flags=flags) as server:
        failed = replay(kit, server, tmp_path, "--stateful")
        assert {name: reason for name, reason in failed.items() if name not in DEVIATIONS} == {}
        assert set(DEVIATIONS) - set(failed) == set(), "these deviations do not deviate any more"
        assert bursts(kit, server, [name for name, _ in cases(kit) if name not in BY_FLUSH]) == {}


def test_bursts_with_triton_s_way_of_changing_shapes(kit: Path) -> None:
    models = {model for name, model in cases(kit) if name in BY_FLUSH}
    flags = (*EXPLICIT, *(f"--load-model={model}" for model in models), "--shape-change=flush")
    with serving(kit / "model_repository", flags=flags) as server:
        failed = bursts(kit, server, [name for name, model in cases(kit) if model in models])
    assert failed == {}


@pytest.mark.parametrize(
    ("group", "flags"),
    [
        ("control_none", (*LENIENT, "--model-control-mode=none")),
        ("strict_readiness", ("--exit-on-error=false", "--strict-readiness=true")),
        (
            "flags",
            (
                *EXPLICIT,
                "--load-model=identity_fp32",
                "--load-model=reqinfo",
                "--http-header-forward-pattern=x-fwd-.*",
                "--http-restricted-api=model-repository,statistics:admin-key=secret",
            ),
        ),
    ],
)
def test_replay_of_other_configurations(kit: Path, tmp_path: Path, group: str, flags: Sequence[str]) -> None:
    (tmp_path / "models").mkdir()
    repository = small_repository(kit, tmp_path / "models", "broken_init", "identity_fp32", "reqinfo")
    with serving(repository, flags=flags) as server:
        assert replay(kit, server, tmp_path, "--only", group) == {}
