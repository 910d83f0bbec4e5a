from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.settings.addresses import parse_address
from jitney.server.settings.grpc import FIELDS, GrpcSettings
from jitney.server.settings.keys import KEYS, ts_env
from jitney.server.settings.settings import Settings
from jitney.server.settings.unknown import GUARDS, guard_near


def load(tmp_path: Path, text: str | None = None, flags: dict[str, Any] | None = None, **environ: Any) -> Settings:
    if text is not None:
        (tmp_path / "config.properties").write_text(text)
    return Settings.load(flags or {}, environ, tmp_path)


def test_defaults_are_torchserves(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert str(settings.inference_address) == "http://127.0.0.1:8080"
    assert str(settings.management_address) == "http://127.0.0.1:8081"
    assert str(settings.metrics_address) == "http://127.0.0.1:8082"
    assert (settings.default_response_timeout, settings.job_queue_size, settings.max_request_size) == (120, 100, 6553500)
    assert settings.source == "" and settings.notes == ()


def test_a_repository_s_models_may_take_longer_to_load_unless_somebody_says_how_long(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.default_startup_timeout, settings.repository_startup_timeout) == (120, 1200)
    settings = load(tmp_path, "default_startup_timeout=7\n")
    assert (settings.default_startup_timeout, settings.repository_startup_timeout) == (7, 7)


def test_every_key_with_a_meaning_is_a_field_and_has_a_default_that_reads() -> None:
    names = set(Settings.__dataclass_fields__) | set(FIELDS)
    assert set(FIELDS.values()) == set(GrpcSettings.__dataclass_fields__)
    assert {name for name, key in KEYS.items() if not key.meaningless} <= names


def test_the_pages_config(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        'load_models=resnet-152-batch_v2.mar\nmodels={\\\n "resnet-152-batch_v2": {\\\n "2.0": {\\\n "defaultVersion": true,\\\n'
        ' "marName": "resnet-152-batch_v2.mar",\\\n "minWorkers": 1,\\\n "maxWorkers": 1,\\\n "batchSize": 3,\\\n'
        ' "maxBatchDelay": 5000,\\\n "responseTimeout": 120\\\n }\\\n }\\\n}\n',
    )
    assert settings.load_models == "resnet-152-batch_v2.mar"
    assert settings.models["resnet-152-batch_v2"]["2.0"]["maxBatchDelay"] == 5000
    assert settings.source == str(tmp_path / "config.properties")


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "enable_envvars_config=true\njob_queue_size=2\n"
    assert load(tmp_path, text).job_queue_size == 2
    assert load(tmp_path, text, TS_JOB_QUEUE_SIZE="3").job_queue_size == 3
    assert load(tmp_path, text, TS_JOB_QUEUE_SIZE="3", JITNEY_JOB_QUEUE_SIZE="4").job_queue_size == 4
    assert load(tmp_path, text, {"job_queue_size": 5}, TS_JOB_QUEUE_SIZE="3").job_queue_size == 5


def test_a_file_of_defaults_stands_below_everything_else(tmp_path: Path) -> None:
    defaults = tmp_path / "image.properties"
    defaults.write_text("job_queue_size=2\ndisable_token_authorization=true\n")
    named: dict[str, Any] = {"JITNEY_DEFAULTS": "image.properties"}
    assert load(tmp_path, "", **named).job_queue_size == 2
    assert load(tmp_path, "job_queue_size=3\n", **named).job_queue_size == 3
    assert load(tmp_path, "", JITNEY_JOB_QUEUE_SIZE="4", **named).job_queue_size == 4
    assert load(tmp_path, "", **named).warnings == ()
    assert load(tmp_path, "", **named).disable_token_authorization is True
    assert load(tmp_path, "disable_token_authorization=false\n", **named).disable_token_authorization is False
    assert load(tmp_path, "", JITNEY_TOKEN="long-enough", **named).token_auth
    with pytest.raises(InvalidConfig, match=r"JITNEY_DEFAULTS names '.*nosuch', where there is no file"):
        load(tmp_path, "", JITNEY_DEFAULTS="nosuch")
    defaults.write_text("job_queue_sise=2\n")
    with pytest.raises(InvalidConfig, match=r"'job_queue_sise'.*job_queue_size"):
        load(tmp_path, "", **named)


def test_torchserves_environment_counts_only_where_the_file_says_so(tmp_path: Path) -> None:
    assert load(tmp_path, "job_queue_size=2\n", TS_JOB_QUEUE_SIZE="3").job_queue_size == 2
    assert load(tmp_path, "", TS_OPEN_INFERENCE_PROTOCOL="oip").ts_open_inference_protocol
    text = "enable_envvars_config=true\n"
    assert load(tmp_path, text, TS_ALLOWED_URLS="x").allowed_urls == ("file://.*|http(s)?://.*",)
    assert load(tmp_path, text + "use_env_allowed_urls=true\n", TS_ALLOWED_URLS="x,y").allowed_urls == ("x", "y")
    assert load(tmp_path, text, TS_TOKEN_EXPIRATION_TIME_MIN="0.5").token_expiration_min == 0.5
    assert ts_env("ts_header_key_sequence_id") == "TS_HEADER_KEY_SEQUENCE_ID"
    assert ts_env("http_threads") == ""


def test_flags_of_torchserve(tmp_path: Path) -> None:
    flags = {
        "model_store": "store",
        "models": ["first=a.mar", "b.mar"],
        "disable_token_auth": True,
        "enable_model_api": False,
    }
    settings = load(tmp_path, "load_models=slow.mar\n", flags | {"start": True, "foreground": False, "ncs": True})
    assert settings.model_store == settings.workflow_store == str(tmp_path / "store")
    assert settings.load_models == "first=a.mar,b.mar"
    assert settings.disable_token_authorization is True and settings.enable_model_api is None
    assert not settings.write_snapshots
    assert settings.live["disable_token_authorization"] == "true"


def test_variables_of_the_environment_stand_in(tmp_path: Path) -> None:
    assert load(tmp_path, "model_store=/x/$$STORE$$/y\n", STORE="s").model_store == "/x/s/y"
    with pytest.raises(InvalidConfig, match="Invalid Environment Variable STORE"):
        load(tmp_path, "model_store=$$STORE$$\n")


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"config\.properties: unknown setting 'job_que_size'; .*'job_queue_size'"):
        load(tmp_path, "job_que_size=2\n")
    with pytest.raises(InvalidConfig, match="command line: unknown setting 'nonsense'"):
        load(tmp_path, "", {"nonsense": 1})


def lenient(tmp_path: Path, text: str, **environ: Any) -> Settings:
    (tmp_path / "config.properties").write_text(text)
    return Settings.load({}, environ, tmp_path, strict=False)


def test_a_switch_that_is_neither_true_nor_false_is_false_where_torchserve_is_replaced(tmp_path: Path) -> None:
    settings = lenient(tmp_path, "enable_model_api=truedefault_response_timeout=60\ndecode_input_request=no\n")
    assert settings.enable_model_api is False and settings.decode_input_request is False
    model_api, _ = settings.warnings
    assert model_api.endswith(
        "enable_model_api is 'truedefault_response_timeout=60', expected true or false; it is false, as in TorchServe"
    )
    from_environment = lenient(tmp_path, "enable_envvars_config=true\n", TS_DISABLE_TOKEN_AUTHORIZATION="yes")
    assert from_environment.disable_token_authorization is False and len(from_environment.warnings) == 1


@pytest.mark.parametrize(
    "line", ["use_env_allowed_urls=yes", "limit_max_image_pixels=on", "enable_grpc_ssl=1", "fast_path=no"]
)
def test_a_switch_whose_off_opens_something_or_that_is_our_own_must_be_readable(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidConfig, match="expected true or false"):
        lenient(tmp_path, line + "\n")


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("NUM_WORKERS=1", "default_workers_per_model"),
        ("batch_size=4", "models"),
        ("maxBatchDelay=50", "models"),
        ("metrics_format=prometheus", "metrics_mode"),
        ("job_que_size=2", "job_queue_size"),
        ("Max_Request_Size=5", "max_request_size"),
        ("enable_metric_api=true", "enable_metrics_api"),
        ("initial_workers_port=1", "initial_worker_port"),
        ("tokenizer=bert", ""),
    ],
)
def test_where_torchserve_is_replaced_an_unknown_key_is_one_warning(tmp_path: Path, line: str, nearest: str) -> None:
    settings = lenient(tmp_path, f"{line}\njob_queue_size=7\n")
    (warning,) = settings.warnings
    assert warning.startswith(
        f"{tmp_path}/config.properties: {line.partition('=')[0]} has no effect: no setting has this name"
    )
    assert warning.endswith(f"the nearest known one is '{nearest}'" if nearest else "name")
    assert (settings.job_queue_size, settings.notes) == (7, ())
    assert line.partition("=")[0] not in settings.live  # a snapshot holds what is in effect


@pytest.mark.parametrize(
    ("key", "guard"),
    [
        ("disable_token_authorisation", "disable_token_authorization"),
        ("disable_token_auth", "disable_token_authorization"),
        ("enable_token", "disable_token_authorization"),
        ("token_expiration_time_min", "token_expiration_min"),
        ("inference_adress", "inference_address"),
        ("INFERENCE_ADDRESS", "inference_address"),
        ("managementAddress", "management_address"),
        ("management_port", "management_address"),
        ("metric.address", "metrics_address"),
        ("alowed_urls", "allowed_urls"),
        ("url_whitelist", "allowed_urls"),
        ("use_allowed_urls", "use_env_allowed_urls"),
        ("enable_model_control", "enable_model_api"),
        ("model_api", "enable_model_api"),
        ("keystore_password", "keystore_pass"),
        ("cert_file", "certificate_file"),
        ("ssl", "certificate_file"),
        ("privat_key_file", "private_key_file"),
        ("restricted_api", "http_restricted_api"),
    ],
)
def test_a_key_close_to_one_that_guards_access_ends_the_start(tmp_path: Path, key: str, guard: str) -> None:
    pattern = rf"config\.properties: unknown setting '{re.escape(key)}'; the nearest known one is '{guard}', which decides"
    with pytest.raises(InvalidConfig, match=pattern):
        lenient(tmp_path, f"{key}=x\n")


def test_no_known_key_is_taken_for_a_misspelt_guard() -> None:
    assert [key for key in KEYS if key not in GUARDS and guard_near(key)] == []


def test_unknown_names_of_the_environment(tmp_path: Path) -> None:
    text = "enable_envvars_config=true\n"
    (warning,) = load(tmp_path, text, TS_NUM_WORKERS="3", TS_BENCHMARK="1").warnings
    assert warning.startswith("environment: TS_NUM_WORKERS has no effect") and "default_workers_per_model" in warning
    assert load(tmp_path, "", TS_NUM_WORKERS="3", TS_ALLOWED_URL="x").warnings == ()  # TorchServe's names count with it only
    assert "JITNEY_HTTP_THREAD" in load(tmp_path, "", JITNEY_HTTP_THREAD="3").warnings[0]
    with pytest.raises(InvalidConfig, match=r"environment: unknown setting 'TS_DISABLE_TOKEN_AUTH'.*token_authorization"):
        load(tmp_path, text, TS_DISABLE_TOKEN_AUTH="false")
    with pytest.raises(InvalidConfig, match="environment: unknown setting 'JITNEY_TOKENS'"):
        load(tmp_path, "", JITNEY_TOKENS="12345678")


def test_where_kubernetes_says_services_are_concerns_no_setting(tmp_path: Path) -> None:
    links = {"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80", "PORT": "tcp://10.0.0.1:80"}
    links |= {"PORT_80_TCP": "tcp://10.0.0.1:80", "PORT_80_TCP_ADDR": "10.0.0.1", "PORT_80_TCP_PORT": "80"}
    environ: dict[str, Any] = {
        f"{service}_{name}": value for service in ("TS", "TS_MODELS", "JITNEY") for name, value in links.items()
    }
    assert load(tmp_path, "enable_envvars_config=true\n", **environ).warnings == ()
    with pytest.raises(InvalidConfig, match="'TS_MANAGEMENT_PORT'; the nearest known one is 'management_address'"):
        load(tmp_path, "enable_envvars_config=true\n", TS_MANAGEMENT_PORT="9000")


def test_keys_without_meaning_are_noted_once(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "vmargs=-Xmx1g\nnumber_of_netty_threads=32\ncpu_launcher_enable=true\npython=/usr/bin/python3\n"
    )
    assert len(settings.notes) == 3
    assert any(note.startswith("number_of_netty_threads=32 has no effect") for note in settings.notes)
    assert load(tmp_path, "", {"plugins_path": "a.jar"}).notes == (
        "plugins_path=a.jar has no effect: there is no Java here",
    )


@pytest.mark.parametrize("line", ["http_server=granian", "http_server=waitress", "affinity=auto"])
def test_keys_of_earlier_versions_are_taken_and_said_to_have_no_effect(tmp_path: Path, line: str) -> None:
    (note,) = load(tmp_path, line + "\n").notes
    assert note.startswith(f"{line} has no effect: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("job_queue_size=abc", "job_queue_size is 'abc': expected an integer from 1 to 2147483647"),
        ("job_queue_size=0", "expected an integer from 1"),
        ("http_threads=5000", "http_threads is '5000': expected an integer from 1 to 4096"),
        ("enable_model_api=yes", "enable_model_api is 'yes': expected true or false"),
        ("token_expiration_min=nan", "expected a number from"),
        ("inference_address=8080", "inference_address is '8080': expected http://host:port"),
        ("inference_address=ftp://h:1", "expected http://host:port"),
        ("inference_address=http://h:99999", "a port from 0 to 65535"),
        ("inference_address=unix:", "path of 1 to 107 bytes"),
        ("allowed_urls=https://(", "expected regular expressions"),
        ("models={", "models is '{': expected a JSON object"),
        ('models={"m":{"1.0":{"batchSize":"many"}}}', "expected int for batchSize of 'm, 1.0', got \"many\""),
        ('models={"m":{"1.0":3}}', "which 'm' is not"),
        ("model_snapshot={}", "model_snapshot: expected"),
        ('model_snapshot={"models":{"m":{"1.0":{"marName":"a.mar"}}}}', "'m, 1.0': expected an object with"),
        ("metrics_mode=statsd", "expected one of log, prometheus, legacy"),
    ],
)
def test_a_bad_value_names_key_value_and_what_was_expected(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load(tmp_path, line + "\n")
    assert message in str(refused.value)


def test_the_keystores_password_is_never_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, "keystore_pass=s3cret-pass\n", JITNEY_TOKEN="s3cret-token")
    assert "s3cret" not in repr(settings)


def test_which_file_is_read(tmp_path: Path) -> None:
    snapshots = tmp_path / "logs" / "config"
    snapshots.mkdir(parents=True)
    (tmp_path / "config.properties").write_text("job_queue_size=1\n")
    (tmp_path / "mine.properties").write_text("job_queue_size=2\n")
    (tmp_path / "env.properties").write_text("job_queue_size=3\n")
    (snapshots / "20260101000000000-startup.cfg").write_text("job_queue_size=4\nversion=0.12.0\n")
    (snapshots / "20260101000000001-shutdown.cfg").write_text("job_queue_size=5\n")
    assert load(tmp_path).job_queue_size == 5
    assert load(tmp_path, flags={"no_config_snapshots": True}).job_queue_size == 1
    assert load(tmp_path, flags={"ts_config": "mine.properties"}).job_queue_size == 2
    assert load(tmp_path, flags={"ts_config": "mine.properties"}, TS_CONFIG_FILE="env.properties").job_queue_size == 3
    with pytest.raises(InvalidConfig, match="--ts-config file not found: nosuch"):
        load(tmp_path, flags={"ts_config": "nosuch"})
    with pytest.raises(InvalidConfig, match="TS_CONFIG_FILE"):
        load(tmp_path, TS_CONFIG_FILE="nosuch")


def test_limits_follow_what_is_replaced(tmp_path: Path) -> None:
    assert load(tmp_path, flags={"model_repository": ["r"]}).max_request_size == 64 * 1024 * 1024
    assert load(tmp_path, flags={"model_repository": ["r"]}).metrics_mode == "prometheus"
    assert load(tmp_path, flags={"model_repository": ["r"]}).exit_on_error
    assert not load(tmp_path, flags={"model_store": "s"}).exit_on_error
    assert load(tmp_path, flags={"model_store": "s"}).max_request_size == 6553500
    # A store beside a repository does not lower what the repository's models may get.
    assert load(tmp_path, flags={"model_repository": ["r"], "model_store": "s"}).max_request_size == 64 * 1024 * 1024
    assert load(tmp_path, flags={"model_repository": ["r", "/q"]}).model_repository == (str(tmp_path / "r"), "/q")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.8.8:1", True),
        ("http://localhost:1", True),
        ("https://[::1]:1", True),
        ("unix:/tmp/x.sock", True),
        ("http://0.0.0.0:1", False),
        ("http://[::]:1", False),
        ("http://10.0.0.1:1", False),
        ("http://myhost:1", False),
    ],
)
def test_addresses(text: str, local: bool) -> None:
    address = parse_address(text)
    assert address.is_local is local
    assert str(address) == text


def test_ports_that_an_address_leaves_out() -> None:
    assert parse_address("https://h", "management").port == 8444
    assert parse_address("http://h", "inference").port == 80
    assert parse_address("http://h:0", "inference").port == 0
