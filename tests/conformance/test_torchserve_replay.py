"""The exchanges recorded from TorchServe 0.12.0, session by session, against real server processes.

A case that goes otherwise must stand in `DEVIATIONS` with its reason (docs/compatibility.md says them to users); one that stands
there and passes must be taken out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jitney.tests.conformance.replay.torchserve.session import Recordings
from jitney.tests.fakes.recordings import recordings
from jitney.tools.bench.ports import free_port

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
SERVER = (sys.executable, "-m", "jitney.server.cli", "--start", "--foreground")
#: The replay's download server is on loopback, which needs a permission.
ENVIRONMENT = {"JITNEY_ALLOW_PRIVATE_URLS": "true", "OMP_NUM_THREADS": "1"}
KITS = recordings("torchserve")
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


@pytest.fixture(scope="module", params=KITS)
def kit(request: pytest.FixtureRequest) -> Path:
    """The folder of TorchServe's recordings: those of the repository, then all of them where they are."""
    return KITS[request.param]


@pytest.fixture(scope="module")
def with_resnet(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's archives and the page's."""
    folder = tmp_path_factory.mktemp("archives")
    for path in (kit / "mars").iterdir():
        (folder / path.name).symlink_to(path)
    builder = [sys.executable, "-m", "jitney.tests.conformance.replay.torchserve.resnet_archive", str(kit), str(folder)]
    subprocess.run(builder, check=True, capture_output=True, timeout=300)
    return folder


def check(kit: Path, archives: Path, session: str, folder: Path) -> None:
    """Replays a session and judges what went otherwise."""
    urls = {name: f"http://127.0.0.1:{free_port()}" for name in ("inference", "management", "metrics")}
    outcome = Recordings(kit).replay(session, SERVER, urls, archives, folder, ENVIRONMENT)
    assert outcome.passed
    expected = DEVIATIONS.get(session, {})
    assert {case: text for case, text in outcome.mismatches.items() if case not in expected} == {}
    assert expected.keys() & outcome.passed == set(), "these go as on TorchServe now: take them out of DEVIATIONS"


@pytest.mark.parametrize("session", WITHOUT_RESNET)
def test_torchserve_answered_the_same(kit: Path, session: str, tmp_path: Path) -> None:
    check(kit, kit / "mars", session, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("session", WITH_RESNET)
def test_torchserve_answered_the_same_with_resnet(kit: Path, with_resnet: Path, session: str, tmp_path: Path) -> None:
    check(kit, with_resnet, session, tmp_path)


def test_every_session_is_replayed(kit: Path) -> None:
    assert Recordings(kit).sessions().keys() == {*WITHOUT_RESNET, *WITH_RESNET}


def test_every_deviation_is_told_to_users() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    cases = [f"`{session}.{case}`" for session, found in DEVIATIONS.items() for case in found]
    assert [case for case in cases if case not in page] == []
