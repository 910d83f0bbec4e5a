"""A second address of the inference API, where KServe asks: the same models, the same guard, with and without front ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jitney.server.settings.addresses import Address
from jitney.tests.fakes.raw_http import ask
from jitney.tests.fakes.torchserve_server import archive, running
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServerFailed

SETTINGS: dict[str, Any] = {
    "load_models": "capitals.mar",
    "default_workers_per_model": "1",
    "disable_system_metrics": "true",
}


@pytest.mark.parametrize("front_ends", ["1", "2"])
def test_both_addresses_answer(tmp_path: Path, front_ends: str) -> None:
    archive(tmp_path / "store", "capitals")
    second = Address("http", "127.0.0.1", free_port())
    with running(tmp_path, kserve_address=str(second), front_ends=front_ends, **SETTINGS) as site:
        assert f"KServe API bind to: {second}" in site.server.lines
        for _ in range(3):
            assert ask(second, "POST", "/predictions/capitals", b"abc", {}).body == b"ABC"
            assert site.predict("capitals", b"abc").body == b"ABC"
        assert json.loads(ask(second, "GET", "/v1/models", None, {}).body) == {"models": ["capitals"]}
        assert ask(second, "GET", "/models", None, {}).status == 404  # management's


def test_tokens_are_asked_for_there_too(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    second = Address("http", "127.0.0.1", free_port())
    with running(tmp_path, kserve_address=str(second), disable_token_authorization="false", **SETTINGS):
        assert ask(second, "POST", "/predictions/capitals", b"abc", {}).status == 400
        key = json.loads((tmp_path / "key_file.json").read_text())["inference"]["key"]
        answer = ask(second, "POST", "/predictions/capitals", b"abc", {"authorization": f"Bearer {key}"})
        assert answer.body == b"ABC"


def test_one_address_named_twice_is_one_listener(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    same = str(Address("http", "127.0.0.1", free_port()))
    with running(tmp_path, kserve_address=same, inference_address=same, **SETTINGS) as site:
        assert site.predict("capitals", b"abc").body == b"ABC"


def test_a_taken_address_ends_the_start_and_is_named(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    second = Address("http", "127.0.0.1", free_port())
    with (
        running(tmp_path, kserve_address=str(second), **SETTINGS),
        pytest.raises(ServerFailed, match=f"kserve_address={second}"),
        running(tmp_path, kserve_address=str(second), **SETTINGS),
    ):
        pass
