"""What keeps a server from starting: ports that everybody reaches, weak tokens, folders that are not there."""

from __future__ import annotations

from pathlib import Path

from jitney.server.settings.problems import access_problems, start_problems

from .test_settings import load

OPEN = "inference_address=http://0.0.0.0:8080\n"


def test_loopback_needs_no_decision(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert access_problems(settings) == []
    assert not settings.token_auth and settings.model_api
    asked = load(tmp_path, "disable_token_authorization=false\nenable_model_api=false\n")
    assert asked.token_auth and not asked.model_api


def test_open_addresses_need_a_decision_about_tokens(tmp_path: Path) -> None:
    (problem,) = access_problems(load(tmp_path, OPEN))
    assert (
        "inference_address http://0.0.0.0:8080" in problem
        and "JITNEY_TOKEN" in problem
        and "--disable-token-auth" in problem
    )
    both = load(tmp_path, OPEN + "management_address=http://192.168.0.1:8081\n")
    assert len(access_problems(both)) == 2
    assert both.token_auth and not both.model_api
    for decided in ({"flags": {"disable_token_auth": True}}, {"JITNEY_TOKEN": "0123456789"}):
        assert access_problems(load(tmp_path, OPEN, **decided)) == []
    assert not load(tmp_path, OPEN, {"disable_token_auth": True}).token_auth
    assert load(tmp_path, OPEN, JITNEY_TOKEN="0123456789").token_auth
    required = load(tmp_path, OPEN + "disable_token_authorization=false\n")
    assert access_problems(required) == [] and required.token_auth
    assert access_problems(load(tmp_path, "metrics_address=http://0.0.0.0:8082\n")) == []
    second = load(tmp_path, "kserve_address=http://0.0.0.0:8080\ninference_address=http://127.0.0.1:8085\n")
    assert "kserve_address http://0.0.0.0:8080" in access_problems(second)[0] and second.token_auth


def test_weak_tokens_are_problems(tmp_path: Path) -> None:
    assert "at least 8" in access_problems(load(tmp_path, "", JITNEY_TOKEN="short"))[0]
    assert "blanks" in access_problems(load(tmp_path, "", JITNEY_TOKEN="long enough to be one"))[0]


def test_what_must_exist_before_the_start(tmp_path: Path) -> None:
    assert start_problems(load(tmp_path, "")) == ["Missing mandatory parameter --model-store"]
    missing = start_problems(load(tmp_path, "", {"model_store": "nosuch"}))
    assert missing[0] == f"--model-store directory not found: {tmp_path / 'nosuch'}"
    assert start_problems(load(tmp_path, "", {"model_store": str(tmp_path)})) == []
    assert start_problems(load(tmp_path, "", {"model_repository": [str(tmp_path)]})) == []
