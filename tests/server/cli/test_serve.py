"""tritonserver's flags, as `jitney serve` understands them."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.cli.main import main
from jitney.server.cli.serve import serve_flags
from jitney.server.cli.serve_parser import serve_parser
from jitney.server.repository.triton.strays import holds_archives
from jitney.server.settings.settings import Settings


def settings(tmp_path: Path, *arguments: str) -> Settings:
    return Settings.load(serve_flags(["--model-repository", str(tmp_path), *arguments]), {}, tmp_path)


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


def test_a_folder_needs_no_flag(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m.mar").touch()
    models, store = str(tmp_path / "models"), str(tmp_path / "store")
    found = Settings.load(serve_flags(["--http-port", "80", models, store, "--id=x"]), {}, tmp_path)
    assert (found.model_repository, found.model_store, found.server_id) == ((models,), store, "x")
    assert str(found.inference_address) == "http://127.0.0.1:80"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "there is no folder 'nowhere'"),
        ("a.mar", "'a.mar' is a file, expected a folder with models, or with archives; serve its folder: jitney serve ."),
        ("a.onnx", "'a.onnx' is a file, expected a folder with models, or with archives; a model is DIR/NAME/1/a.onnx"),
    ],
)
def test_a_word_that_is_no_folder(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.mar", "a.onnx"):
        (tmp_path / file).touch()
    assert main(["serve", name]) == 1
    assert reason in capsys.readouterr().err


def test_watching_is_polling_often(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = settings(tmp_path, "--watch")
    assert (found.model_control_mode, found.repository_poll_secs) == ("poll", 1)
    assert settings(tmp_path, "--watch", "--repository-poll-secs=5").repository_poll_secs == 5
    with pytest.raises(SystemExit):
        settings(tmp_path, "--watch", "--model-control-mode=explicit")
    assert "--watch is --model-control-mode poll, not explicit" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("configured", "flags", "expected"),
    [
        ("https://0.0.0.0:8443", ["--http-port=9443"], "https://0.0.0.0:9443"),
        ("https://127.0.0.1", ["--http-address=127.0.0.2"], "https://127.0.0.2:443"),
        ("http://0.0.0.0:8080", ["--http-port=8000"], "http://0.0.0.0:8000"),
        ("unix:/run/jitney.sock", ["--http-port=8000"], "http://127.0.0.1:8000"),
        ("http://[::1]:8080", ["--http-port=8000"], "http://[::1]:8000"),
        ("http://0.0.0.0:8080", ["--http-address=::1"], "http://[::1]:8080"),
        ("http://0.0.0.0:8080", ["--http-address=[::1]", "--http-port=0"], "http://[::1]:0"),
        ("http://0.0.0.0:8080", [], "http://0.0.0.0:8080"),
    ],
)
def test_a_flag_changes_its_part_of_a_configured_address(
    tmp_path: Path, configured: str, flags: list[str], expected: str
) -> None:
    """A port with TLS stays one."""
    config = tmp_path / "c.properties"
    config.write_text(f"inference_address={configured}\nkeystore=k\nkeystore_pass=p\n")
    found = settings(tmp_path, f"--config={config}", *flags)
    assert str(found.inference_address) == expected
    config.write_text("")
    arguments = serve_flags(["--model-repository", str(tmp_path), f"--config={config}", *flags])
    assert str(Settings.load(arguments, {"JITNEY_INFERENCE_ADDRESS": configured}, tmp_path).inference_address) == expected


def test_a_configured_address_that_is_none_is_named_whatever_the_flags(tmp_path: Path) -> None:
    config = tmp_path / "c.properties"
    config.write_text("inference_address=ftp://x\n")
    with pytest.raises(InvalidConfig, match=r"c\.properties.*inference_address is 'ftp://x': expected http://"):
        settings(tmp_path, f"--config={config}", "--http-port=8000")


def test_the_older_flag_of_the_cache_and_any_free_port(tmp_path: Path) -> None:
    found = settings(tmp_path, "--response-cache-byte-size=77", "--http-port=0")
    assert (found.cache_config, str(found.inference_address)) == (77, "http://127.0.0.1:0")


def test_the_folder_of_python_based_backends(tmp_path: Path) -> None:
    assert settings(tmp_path, "--backend-directory", "there").backend_directory == "there"
    assert settings(tmp_path).backend_directory == ""


def test_flags_without_meaning_say_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(tmp_path, "--reuse-grpc-port=1", "--reuse-grpc-port", "2", "--grpc-infer-thread-count=8")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "--reuse-grpc-port has no effect: one server owns each port",
        "--grpc-infer-thread-count has no effect: use --grpc-front-ends",
    ]


#: The options of `tritonserver --help`, from 2.51 on, with the deprecated ones.
TRITONSERVER = """
allow-client-shm allow-cpu-metrics allow-gpu-metrics allow-grpc allow-http allow-metrics allow-sagemaker allow-vertex-ai
backend-config backend-directory buffer-manager-thread-count cache-config cache-directory cuda-memory-pool-byte-size
cuda-virtual-address-size disable-auto-complete-config enable-peer-access exit-on-error exit-timeout-secs grpc-address
grpc-header-forward-pattern grpc-http2-max-ping-strikes grpc-http2-max-pings-without-data
grpc-http2-min-recv-ping-interval-without-data grpc-infer-allocation-pool-size grpc-infer-response-compression-level
grpc-infer-thread-count grpc-keepalive-permit-without-calls grpc-keepalive-time grpc-keepalive-timeout
grpc-max-connection-age grpc-max-connection-age-grace grpc-max-response-pool-size grpc-port grpc-restricted-protocol
grpc-root-cert grpc-server-cert grpc-server-key grpc-use-ssl grpc-use-ssl-mutual host-policy http-address
http-header-forward-pattern http-max-input-size http-port http-restricted-api http-thread-count id load-model log-error
log-file log-format log-info log-verbose log-warning metrics-address metrics-config metrics-interval-ms metrics-port
min-supported-compute-capability model-config-name model-control-mode model-load-gpu-limit model-load-retry-count
model-load-thread-count model-namespacing model-repository model-store pinned-memory-pool-byte-size rate-limit
rate-limit-resource repoagent-directory repository-poll-secs response-cache-byte-size reuse-grpc-port reuse-http-port
sagemaker-port sagemaker-safe-port-range sagemaker-thread-count strict-model-config strict-readiness trace-config
trace-count trace-file trace-level trace-log-frequency trace-rate vertex-ai-default-model vertex-ai-port
vertex-ai-thread-count
"""


def test_every_option_of_tritonserver_is_taken() -> None:
    known = {option for action in serve_parser()._actions for option in action.option_strings}
    assert [name for name in TRITONSERVER.split() if f"--{name}" not in known] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rate-limit=off", "--rate-limit-resource=R1:10:0", "--rate-limit-resource=R2:5"),
        ("--model-namespacing=true", "--model-load-retry-count=3", "--cuda-virtual-address-size=0:1"),
        ("--sagemaker-safe-port-range=1-2", "--vertex-ai-default-model", "m", "--grpc-option-of-next-year=1"),
    ],
)
def test_options_without_meaning_are_taken_with_a_word(
    tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings(tmp_path, *arguments).model_repository == (str(tmp_path),)
    told = [line.split(" has no effect: ")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == list(dict.fromkeys(argument.split("=")[0] for argument in arguments if argument.startswith("--")))


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ((), "info"),
        (("--log-verbose=1",), "debug"),
        (("--log-verbose=0",), "info"),
        (("--log-verbose", "--log-info"), "debug"),
        (("--log-info=false",), "warning"),
        (("--log-info=false", "--log-warning=0"), "error"),
        (("--log-info=false", "--log-warning=false", "--log-error=false"), "critical"),
        (("--log-warning=false",), "info"),
        (("--log-info=false", "--log-level=debug"), "debug"),
    ],
)
def test_what_is_logged(tmp_path: Path, flags: tuple[str, ...], level: str) -> None:
    assert settings(tmp_path, *flags).log_level == level


def test_how_it_is_logged(tmp_path: Path) -> None:
    found = settings(tmp_path, "--log-format=json", "--log-file=the.log", "--access-log=terminal")
    assert (found.log_format, found.log_file, found.access_log) == ("json", str(tmp_path / "the.log"), "terminal")
    assert settings(tmp_path, "--log-format=default").log_format == "text"  # Triton's name
    with pytest.raises(InvalidConfig, match="log_format is 'xml': expected one of text, json, ISO8601"):
        settings(tmp_path, "--log-format=xml")


def test_both_kinds_of_flags_say_what_is_traced(tmp_path: Path) -> None:
    given = ("--trace-config", "mode=opentelemetry", "--trace-config=opentelemetry,url=there:4318,resource=service.name=a b")
    found = settings(tmp_path, *given, "--trace-rate", "100", "--trace-level=TIMESTAMPS", "--trace-count=3").trace_config
    assert (found.mode, found.url, found.rate, found.level, found.count) == (
        "opentelemetry", "there:4318", 100, ("TIMESTAMPS",), 3,
    )  # fmt: skip
    assert found.resource == {"service.name": "a b"}
    found = settings(tmp_path, "--trace-file=a trace.json", "--trace-log-frequency=5").trace_config
    assert (found.mode, found.file, found.log_frequency) == ("triton", str(tmp_path / "a trace.json"), 5)


def test_options_that_have_a_meaning_since_they_guard_or_name_something(tmp_path: Path) -> None:
    found = settings(tmp_path, "--id=mine", "--allow-client-shm=false", "--allow-metrics=false")
    assert (found.server_id, found.allow_client_shm, found.enable_metrics_api) == ("mine", False, False)
    found = settings(tmp_path)
    assert (found.server_id, found.allow_client_shm, found.enable_metrics_api) == ("triton", True, True)


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--model-namespace=true", "unrecognized arguments: --model-namespace=true"),
        ("--allow-client-shm=perhaps", "expected true or false"),
        ("--strict-readiness=maybe", "expected true or false"),
        ("--model-control-mode=sometimes", "invalid choice: 'sometimes'"),
        ("--http-port=many", "argument --http-port: expected a port from 0 to 65535, got 'many'"),
        ("--metrics-port=99999", "argument --metrics-port: expected a port from 0 to 65535, got '99999'"),
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


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--modelrepository", "models"], "--modelrepository; did you mean --model-repository?"),
        (["--model_repository=models"], "--model_repository=models; did you mean --model-repository?"),
        (["--port=8000"], "--port=8000; did you mean --http-port?"),
        (["--xyzzy"], "--xyzzy\n"),
    ],
)
def test_what_serve_does_not_take_is_answered_with_what_to_type(
    arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *arguments])
    assert caught.value.code == 2
    assert f"unrecognized arguments: {advice}" in capsys.readouterr().err


class TestFolders:
    """`--model-store` is TorchServe's word for a folder of archives, and tritonserver's second word for a repository."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "a.mar").touch()
        return tmp_path / "store"

    @pytest.fixture
    def models(self, tmp_path: Path) -> Path:
        (tmp_path / "models" / "m" / "1").mkdir(parents=True)
        return tmp_path / "models"

    def test_a_store_beside_a_repository(self, tmp_path: Path, models: Path) -> None:
        found = settings(models, "--model-store", str(tmp_path))
        assert (found.model_repository, found.model_store) == ((str(models),), str(tmp_path))

    def test_a_store_alone_is_what_lies_in_it(self, store: Path, models: Path) -> None:
        def alone(*folders: Path) -> Settings:
            flags = [word for folder in folders for word in ("--model-store", str(folder))]
            return Settings.load(serve_flags(flags), {}, store.parent)

        assert (alone(store).model_repository, alone(store).model_store) == ((), str(store))
        assert (alone(models).model_repository, alone(models).model_store) == ((str(models),), None)
        both = alone(models, store)
        assert (both.model_repository, both.model_store) == ((str(models),), str(store))

    def test_one_store_at_most(self, tmp_path: Path, store: Path) -> None:
        with pytest.raises(InvalidConfig, match="expected one --model-store"):
            settings(tmp_path, "--model-store", str(store), "--model-store", str(tmp_path))


def test_a_store_that_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(InvalidConfig, match=f"the folder '{tmp_path}' cannot be read: Permission denied"):
        holds_archives(tmp_path)
