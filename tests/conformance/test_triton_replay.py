"""The exchanges recorded from a real Triton, and its batches, against a real server process.

A case that fails must stand in `DEVIATIONS` with the reason; one that stands there and passes must be taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from jitney.tests.conformance.replay.triton.burst_cases import CASES, BurstCase
from jitney.tests.conformance.replay.triton.bursts import send_burst
from jitney.tests.conformance.replay.triton.cases import replay
from jitney.tests.fakes.recordings import recordings
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
KITS = recordings("triton")
EXPLICIT = (*LENIENT, "--model-control-mode=explicit")


@pytest.fixture(scope="module", params=KITS)
def kit(request: pytest.FixtureRequest) -> Path:
    """The folder of Triton's recordings: those of the repository, then all of them where they are."""
    return KITS[request.param]


def authority(url: str) -> str:
    return url.removeprefix("http://")


def replayed(kit: Path, server: ServedProcess, group: str | None = None) -> dict[str, list[str]]:
    """Replays the usual cases, or those of a group; what is different, by the names of those that fail."""
    servers = {"http": authority(server.inference), "metrics": authority(server.metrics)}
    found = dict(replay(kit / "golden", servers, group))
    assert found
    return {name: told for name, told in found.items() if told}


def bursts(server: ServedProcess, cases: Sequence[BurstCase]) -> dict[str, str]:
    """Sends bursts, those of one model after the other; what is wrong with those that fail, twice, by name."""
    address = authority(server.inference)
    groups = [list(group) for _, group in groupby(sorted(cases, key=lambda case: case.model), key=lambda case: case.model)]

    def run_all(group: Sequence[BurstCase]) -> dict[str, str]:
        return {case.name: send_burst(address, case) for case in group}

    with ThreadPoolExecutor(len(groups)) as pool:
        first = {name: text for found in pool.map(run_all, groups) for name, text in found.items()}
    # They are about seconds of a clock: a machine that had no time for one is asked again.
    return {case.name: text for case in cases if first[case.name] and (text := send_burst(address, case))}


def small_repository(kit: Path, folder: Path, *models: str) -> Path:
    for model in models:
        (folder / model).symlink_to(kit / "model_repository" / model)
    return folder


def test_every_deviation_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert [name for name in DEVIATIONS if f"`{name}`" not in page] == []


def test_replay(kit: Path) -> None:
    flags = (*EXPLICIT, "--load-model=*", "--cache-config=local,size=1048576")
    with serving(kit / "model_repository", flags=flags) as server:
        failed = replayed(kit, server)
    assert {name: told for name, told in failed.items() if name not in DEVIATIONS} == {}
    assert set(DEVIATIONS) - set(failed) == set(), "these deviations do not deviate any more"


def test_bursts() -> None:
    cases = [case for case in CASES if case.name not in BY_FLUSH]
    flags = (*EXPLICIT, *(f"--load-model={model}" for model in sorted({case.model for case in cases})))
    with serving(KITS["own"] / "model_repository", flags=flags) as server:
        assert bursts(server, cases) == {}


def test_bursts_with_triton_s_way_of_changing_shapes() -> None:
    models = {case.model for case in CASES if case.name in BY_FLUSH}
    flags = (*EXPLICIT, *(f"--load-model={model}" for model in models), "--shape-change=flush")
    with serving(KITS["own"] / "model_repository", flags=flags) as server:
        failed = bursts(server, [case for case in CASES if case.model in models])
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
        assert replayed(kit, server, group) == {}
