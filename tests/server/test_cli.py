"""tritonserver's flags, as `jitney serve` understands them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.server import cli
from jitney.server.errors import InvalidConfig
from jitney.server.settings import Settings


def settings(tmp_path: Path, *arguments: str) -> Settings:
    return Settings.load(cli.serve_flags(["--model-repository", str(tmp_path), *arguments]), {}, tmp_path)


def test_a_command_of_tritonserver(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        "--model-repository=/other",
        "--model-control-mode=explicit",
        "--load-model=a",
        "--load-model",
        "b",
        "--strict-readiness=false",
        "--exit-on-error=true",
        "--exit-timeout-secs=5",
        "--disable-auto-complete-config",
        "--backend-config=onnxruntime,default-max-batch-size=8",
        "--backend-config=python,shm-default-byte-size=1",
        "--cache-config=local,size=4096",
        "--http-address=127.0.0.2",
        "--http-port=8000",
        "--metrics-port=8002",
        "--http-max-input-size=1000",
        "--http-header-forward-pattern=x-.*",
        "--http-restricted-api=health,metadata:a=1",
        "--http-restricted-api=trace:b=2",
        "--model-config-name=gpu",
    )
    assert found.model_repository == (str(tmp_path), "/other")
    assert (found.model_control_mode, found.load_model) == ("explicit", ("a", "b"))
    assert (found.strict_readiness, found.exit_on_error, found.exit_timeout_secs) == (False, True, 5)
    assert found.disable_auto_complete_config and found.model_config_name == "gpu"
    assert found.backend_config["onnxruntime"] == {"default-max-batch-size": "8"}
    assert (found.cache_config, found.max_request_size) == (4096, 1000)
    assert str(found.inference_address) == "http://127.0.0.2:8000"
    assert str(found.metrics_address) == "http://127.0.0.1:8002"
    assert str(found.management_address) == "http://127.0.0.1:8081"
    assert found.http_header_forward_pattern == "x-.*"
    assert found.http_restricted_api == {"health": ("a", "1"), "metadata": ("a", "1"), "trace": ("b", "2")}


def test_defaults(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.model_control_mode, found.load_model, found.strict_readiness) == ("none", (), True)
    assert str(found.inference_address) == "http://127.0.0.1:8080"
    assert (found.http_header_forward_pattern, found.http_restricted_api, found.cache_config) == ("", {}, 0)


def test_an_address_of_the_inference_port_opens_no_other(tmp_path: Path) -> None:
    found = settings(tmp_path, "--http-address=127.0.0.2")
    assert [str(found.inference_address), str(found.management_address), str(found.metrics_address)] == [
        "http://127.0.0.2:8080",
        "http://127.0.0.1:8081",
        "http://127.0.0.1:8082",
    ]
    assert str(settings(tmp_path, "--metrics-address=127.0.0.2").metrics_address) == "http://127.0.0.2:8082"


def test_the_older_flag_of_the_cache_and_any_free_port(tmp_path: Path) -> None:
    found = settings(tmp_path, "--response-cache-byte-size=77", "--http-port=0")
    assert (found.cache_config, str(found.inference_address)) == (77, "http://127.0.0.1:0")


def test_flags_without_meaning_say_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(tmp_path, "--allow-grpc=false", "--log-verbose=1", "--log-verbose", "2", "--grpc-port=8001")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "--allow-grpc has no effect: gRPC is not served",
        "--log-verbose has no effect: POST /v2/logging changes what is logged",
        "--grpc-port has no effect: gRPC is not served",
    ]


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--model-namespacing=true", "unrecognized arguments: --model-namespacing=true"),
        ("--strict-readiness=maybe", "expected true or false"),
        ("--model-control-mode=sometimes", "invalid choice: 'sometimes'"),
        ("--http-port=many", "invalid int value: 'many'"),
    ],
)
def test_flags_that_are_refused(tmp_path: Path, argument: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        settings(tmp_path, argument)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--http-restricted-api=models:a=1", "--http-restricted-api: http_restricted_api is 'models:a=1': expected groups"),
        ("--http-header-forward-pattern=(", "--http-header-forward-pattern: .* expected a regular expression"),
        ("--cache-config=redis,host=a", "--cache-config: .* expected local,size=BYTES"),
        ("--repository-poll-secs=0", "--repository-poll-secs: .* expected an integer from 1"),
    ],
)
def test_values_that_are_refused(tmp_path: Path, argument: str, complaint: str) -> None:
    with pytest.raises(InvalidConfig, match=complaint):
        settings(tmp_path, argument)


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sreve"]) == 2
    assert "unknown command 'sreve'" in capsys.readouterr().err
