"""Python models of the recordings' repository, answering as a real Triton did (status and text)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.tests.fakes.serving import Serving, conformance_kit, serving

MODELS = ("errors", "bls", "decoupled", "reqinfo", "textgen", "seq_direct", "identity_fp32")
GROUPS = (
    "model_error__",
    "generate__decoupled",
    "generate__stream",
    "generate__model_error",
    "sequence__",
    "error__sequence",
)


def recordings() -> list[Path]:
    try:
        golden = conformance_kit() / "golden"
    except pytest.skip.Exception:
        return []
    return sorted(path for path in golden.glob("*.json") if path.name.startswith(GROUPS))


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving(conformance_kit() / "model_repository", *MODELS) as found:
        yield found


def post(served: Serving, request: dict[str, Any]) -> Any:
    return served.http.simulate_post(request["path"], body=request["body"], headers={"Content-Type": "application/json"})


def parsed(body: str) -> Any:
    return json.loads(body.removeprefix("data: "))


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_answers_are_those_of_a_real_triton(served: Serving, path: Path) -> None:
    recording = json.loads(path.read_text())
    if path.stem == "sequence__step1":
        post(served, json.loads(path.with_name("sequence__step0.json").read_text())["request"])
    response = post(served, recording["request"])
    wanted = recording["response"]
    if not path.stem.startswith("generate__"):  # Triton says 400 there whatever went wrong
        assert response.status_code == wanted["status"], response.text
    repository = str(conformance_kit() / "model_repository")
    assert parsed(response.text.replace(repository, "/models")) == parsed(wanted["body"])


def test_what_a_model_is_told_is_what_triton_tells_it(served: Serving) -> None:
    recording = json.loads((conformance_kit() / "golden" / "params__custom_params_id.json").read_text())
    answers = (post(served, recording["request"]).text, recording["response"]["body"])
    ours, theirs = (json.loads(json.loads(text)["outputs"][0]["data"][0]) for text in answers)
    for name in ("public", "pb_utils"):
        assert set(theirs.pop(name)) - {"json", "np", "struct"} <= set(ours.pop(name))
    for seen in (ours, theirs):
        seen["parameters"] = json.loads(seen["parameters"])
        seen["args"].pop("model_config")  # compared by the repository's tests
        seen["args"].pop("model_repository")
        assert seen.pop("model_dir").endswith("/reqinfo/1")
        assert "no attribute 'priority'" in seen.pop("priority")
    assert ours == theirs
