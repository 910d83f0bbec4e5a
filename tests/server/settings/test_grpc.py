"""Where gRPC is served and who may reach it, by flags and config.properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.cli.serve import serve_flags
from jitney.server.settings.problems import access_problems
from jitney.server.settings.settings import Settings


def load(folder: Path, text: str = "", **flags: Any) -> Settings:
    (folder / "config.properties").write_text(text)
    return Settings.load({"no_config_snapshots": True, **flags}, {}, folder)


def served(settings: Settings) -> list[str]:
    return [f"{address.service} {address}" for address in settings.grpc_addresses]


TRITON, INFERENCE, MANAGEMENT = "triton 127.0.0.1:8001", "inference 127.0.0.1:7070", "management 127.0.0.1:7071"


def test_each_original_s_services_stand_beside_its_kind_of_models(tmp_path: Any) -> None:
    repository, store = {"model_repository": "models"}, {"model_store": "store"}
    assert served(load(tmp_path, **repository)) == [TRITON]
    assert served(load(tmp_path, **store)) == [INFERENCE, MANAGEMENT]
    assert served(load(tmp_path, **repository, **store)) == [TRITON, INFERENCE, MANAGEMENT]
    assert served(load(tmp_path)) == []


def test_a_port_opens_a_service_wherever(tmp_path: Any) -> None:
    found = load(tmp_path, "grpc_inference_port=7000\n", model_repository="models")
    assert served(found) == [TRITON, "inference 127.0.0.1:7000"]
    assert served(load(tmp_path, "grpc_port=0\ngrpc_address=::1\n")) == ["triton [::1]:0"]
    assert served(load(tmp_path, "grpc_port=8001\nallow_grpc=false\n", model_repository="models")) == []


@pytest.mark.parametrize(
    ("text", "asked"),
    [("", False), ("allow_grpc=true\n", True), ("grpc_port=8001\n", True), ("grpc_front_ends=2\n", False),
     ("grpc_management_port=7071\n", True), ("allow_grpc=false\ngrpc_port=8001\n", False)],
)  # fmt: skip
def test_what_counts_as_asking_for_it(tmp_path: Any, text: Any, asked: Any) -> None:
    assert load(tmp_path, text, model_repository="models").grpc.is_asked_for is asked


def test_an_address_that_others_reach_needs_a_decision(tmp_path: Any) -> None:
    for key in ("grpc_address", "grpc_inference_address", "grpc_management_address"):
        found = load(tmp_path, f"{key}=0.0.0.0\n", model_repository="models", model_store="store")
        assert not found.is_local
        assert found.token_auth
        (problem,) = access_problems(found)
        assert "can be reached from other machines" in problem
        decided = load(tmp_path, f"{key}=0.0.0.0\ndisable_token_authorization=true\n", model_repository="models")
        assert access_problems(decided) == []
    closed = load(tmp_path, "grpc_address=0.0.0.0\nallow_grpc=false\n", model_repository="models")
    assert (closed.is_local, access_problems(closed)) == (True, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("grpc_port=x", "expected an integer from 0 to 65535"),
        ("grpc_address=127.0.0.1:8001", "expected a host name or an IP address, without a port"),
        ("grpc_infer_response_compression_level=max", "expected one of none, low, medium, high"),
        ("grpc_restricted_protocol=everything:a=b", "expected groups out of"),
        ("grpc_header_forward_pattern=(", "expected a regular expression"),
        ("grpc_keepalive_permit_without_calls=2", "expected true or false"),
    ],
)
def test_bad_values(tmp_path: Any, line: Any, message: Any) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load(tmp_path, line + "\n")


@pytest.mark.parametrize("line", ["grpc_adress=0.0.0.0", "grpc_restricted_protocols=a:b=c", "enable_grpc_tls=true"])
def test_a_misspelt_guard_is_not_passed_over(tmp_path: Any, line: Any) -> None:
    (tmp_path / "config.properties").write_text(line + "\n")
    with pytest.raises(InvalidConfig, match="decides who may reach or manage the server"):
        Settings.load({"no_config_snapshots": True}, {}, tmp_path, strict=False)


def test_paths_and_java_s_largest_number(tmp_path: Any) -> None:
    found = load(tmp_path, f"grpc_server_key=key.pem\ngrpc_inference_max_connection_age_ms={2**63 - 1}\n").grpc
    assert (found.server_key, found.inference_connection_age) == (str(tmp_path / "key.pem"), 0)
    assert load(tmp_path, "grpc_management_max_connection_age_ms=5000\n").grpc.management_connection_age == 5000


def test_tritonserver_s_flags(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    flags = serve_flags(
        ["--model-repository=models", "--grpc-port", "9000", "--allow-grpc", "--grpc-use-ssl=1", "--grpc-keepalive-time=5",
         "--grpc-keepalive-permit-without-calls=1", "--grpc-infer-response-compression-level=low",
         "--grpc-restricted-protocol=health:a=b", "--grpc-restricted-protocol=trace,logging:c=d"]
    )  # fmt: skip
    found = Settings.load(flags, {}, tmp_path).grpc
    assert (found.port, found.allow, found.use_ssl, found.keepalive_time) == (9000, True, True, 5)
    assert (found.keepalive_permit_without_calls, found.compression) == (True, "low")
    assert dict(found.restricted) == {"health": ("a", "b"), "trace": ("c", "d"), "logging": ("c", "d")}
