"""The exchanges recorded from TorchServe 0.12.0, session by session, against real server processes.

A case that goes otherwise must stand in `DEVIATIONS` with its reason (docs/compatibility.md says them to users); one that stands
there and passes must be taken out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jitney.tools.bench.served import free_port

pytestmark = pytest.mark.timeout(500)

OWN_DOCUMENT = "the OpenAPI documents have their own texts"
MALFORMED = "malformed input is 400 with what is wrong, where TorchServe's Java fails with 500"
NAMES = "a name with '/' or blanks cannot be asked for or removed under any URL, so it is refused"
ESCAPED = "%2F is no separator: the whole segment is the name of a model that does not exist"
LISTED = f"the list is one shorter: {NAMES}"
CONNECTION = "a client that asks for the connection to be closed gets that; HTTP/1.0 means it unless it says otherwise"
UNREADABLE = "what is no image is 400 with the reason, and alone: the other requests of its batch are answered"
TOKEN_WORD = "only /token is the token API, not every request that has the word somewhere"

#: Session -> cases of the recordings that go otherwise here, on purpose.
DEVIATIONS: dict[str, dict[str, str]] = {
    "main": {
        **dict.fromkeys(
            [
                "012.options_root_inference",
                "015.api_description_inference",
                "020.options_root_management",
                "023.api_description_management",
                "028.options_root_metrics",
                "031.api_description_metrics",
                "192.model_options",
                "194.predict_options",
            ],
            OWN_DOCUMENT,
        ),
        **dict.fromkeys(
            [
                "036.options_star",
                "067.register_json_malformed",
                "069.register_json_empty_body",
                "070.register_json_wrong_type",
                "071.register_json_array",
                "148.scale_negative",
                "149.describe_scale_negative",
            ],
            MALFORMED,
        ),
        "083.register_name_special": NAMES,
        **dict.fromkeys(["084.describe_name_special", "085.delete_name_special"], ESCAPED),
        **dict.fromkeys(
            [
                "125.list_all",
                "126.list_limit2",
                "127.list_limit2_next",
                "129.list_limit_negative",
                "130.list_limit_101",
                "131.list_limit_word",
                "132.list_token_word",
                "133.list_token_negative",
                "135.list_camel_token",
                "136.list_exact",
                "165.list_versions",
            ],
            LISTED,
        ),
        "111.describe_json_minimal": "a JSON registration without max_batch_delay has the default, not -10000",
        **dict.fromkeys(["217.noop_http10", "219.noop_conn_close"], CONNECTION),
    },
    "batching": {
        "012.delay_from_poll": "the delay counts from the oldest request's arrival, a wait for the worker included"
    },
    "token": {
        **dict.fromkeys(["018.options_no_token", "019.api_description_no_token", "030.options_mgmt_no_token"], OWN_DOCUMENT),
        **dict.fromkeys(["047.path_with_token", "048.path_with_slash_token", "049.header_with_slash_token"], TOKEN_WORD),
    },
    "modelapi_off": {"014.options_root": OWN_DOCUMENT},
    "doc_mgmt": dict.fromkeys(["007.predict_garbage", "009.predict_json_wrong", "010.predict_good_and_bad"], UNREADABLE),
    "doc_config": {"006.register_405": "the model API, unless it is switched off, is open on loopback: the page needs it"},
    "model_config": {"003.ctimeout_dropped": "a request whose client timeout passes is answered instead of never"},
}
#: These want the archive of the page, ResNet-152, which takes a minute to build.
WITH_RESNET = ("doc_mgmt", "doc_config", "doc_docker")
#: A connection that stays open is looked at for so long after each answer; the kit takes 0.35 s.
SHORTER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("replay", sys.argv[1])
replay = importlib.util.module_from_spec(spec)
spec.loader.exec_module(replay)
replay.Conn.closed_by_server.__defaults__ = (0.15,)
del sys.argv[0]
sys.exit(replay.main())
"""
SERVER = f"{sys.executable} -m jitney.server.cli --start --foreground {{config_flag}} --model-store {{model_store}} {{args}}"
WITHOUT_RESNET = (
    "main",
    "limits",
    "batching",
    "token",
    "modelapi_off",
    "startup",
    "prometheus",
    "kserve",
    "snapshot",
    "cli_models",
    "model_config",
)


@pytest.fixture(scope="module")
def kit() -> Path:
    """The folder of TorchServe's recordings."""
    root = Path(__file__).parents[2]
    found = Path(os.environ.get("JITNEY_CONFORMANCE") or root.parent / "shared" / "conformance") / "torchserve"
    if not (found / "replay.py").is_file():
        pytest.skip("the recordings of TorchServe are not here; JITNEY_CONFORMANCE names their folder")
    return found.resolve()


@pytest.fixture(scope="module")
def with_resnet(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's archives and the page's."""
    folder = tmp_path_factory.mktemp("archives")
    for path in (kit / "mars").iterdir():
        (folder / path.name).symlink_to(path)
    builder = [sys.executable, str(kit / "build_resnet152.py"), str(folder)]
    subprocess.run(builder, check=True, capture_output=True, timeout=300)
    return folder


def replayed(kit: Path, archives: Path, session: str, folder: Path) -> tuple[dict[str, list[str]], set[str]]:
    """Mismatches by case, and the cases that pass. The kit's download server is on loopback, which needs a permission."""
    ports = {name: f"http://127.0.0.1:{free_port()}" for name in ("inference", "management", "metrics")}
    command = [sys.executable, "-c", SHORTER, str(kit / "replay.py"), "--session", session, "--verbose", "--max-lines", "3"]
    command += [part for name, url in ports.items() for part in (f"--{name}", url)]
    command += ["--model-store", str(archives), "--mar-http-port", str(free_port())]
    command += ["--workroot", str(folder), "--start-cmd", SERVER]
    variables = {**os.environ, "JITNEY_ALLOW_PRIVATE_URLS": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=450, check=False)
    passed = set(re.findall(rf"^ok {session}\.(\S+)$", done.stdout, re.M))
    mismatches: dict[str, list[str]] = {}
    for case, text in re.findall(rf"^MISMATCH {session}\.(\S+): (.*)$", done.stdout, re.M):
        mismatches.setdefault(case, []).append(text)
    assert f"{len(passed)} passed, {len(mismatches)} failed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    return mismatches, passed


def check(session: str, mismatches: dict[str, list[str]], passed: set[str]) -> None:
    expected = DEVIATIONS.get(session, {})
    assert {case: text for case, text in mismatches.items() if case not in expected} == {}
    assert expected.keys() & passed == set(), "these go as on TorchServe now: take them out of DEVIATIONS"


@pytest.mark.parametrize("session", WITHOUT_RESNET)
def test_torchserve_answered_the_same(kit: Path, session: str, tmp_path: Path) -> None:
    check(session, *replayed(kit, kit / "mars", session, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("session", WITH_RESNET)
def test_torchserve_answered_the_same_with_resnet(kit: Path, with_resnet: Path, session: str, tmp_path: Path) -> None:
    check(session, *replayed(kit, with_resnet, session, tmp_path))


def test_every_session_is_replayed(kit: Path) -> None:
    listed = subprocess.run([sys.executable, str(kit / "replay.py"), "--list"], capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {*WITHOUT_RESNET, *WITH_RESNET}


def test_every_deviation_is_told_to_users() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    cases = [f"`{session}.{case}`" for session, found in DEVIATIONS.items() for case in found]
    assert [case for case in cases if case not in page] == []
