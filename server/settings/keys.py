"""Every key of `config.properties`: how its value is read, its default, its environment name, or why it means nothing here.

Names, defaults and meanings of the first group are TorchServe 0.12's; the groups after it are jitney's own.

The file is long since it is one table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import restrictions, trace
from .addresses import parse_address, parse_host

Reader = Callable[[str], Any]

#: Limits of a body when started as TorchServe is (with a model store), and otherwise.
TORCHSERVE_MAX_BYTES = 6_553_500
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Key:
    """`read` turns the text into the value and raises ValueError with what was expected. `ts_env` is TorchServe's name for
    the environment, "" where TorchServe has none. `meaningless` says why a key is accepted and has no effect."""

    read: Reader
    default: Any = None
    ts_env: str | None = None
    meaningless: str = ""


def text(value: str) -> str:
    if "\0" in value:
        raise ValueError("expected text without NUL characters")
    return value


def switch(value: str) -> bool:
    if value.strip().lower() not in ("true", "false"):
        raise ValueError("expected true or false")
    return value.strip().lower() == "true"


def integer(low: int, high: int = 2**31 - 1) -> Reader:
    def read(value: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,19}", value.strip()) or not low <= int(value) <= high:
            raise ValueError(f"expected an integer from {low} to {high}")
        return int(value)

    return read


def automatic(low: int, high: int) -> Callable[[str], int]:
    """An integer, or the word auto, which is read as 0."""
    read = integer(low, high)

    def read_or_auto(value: str) -> int:
        if value.strip().lower() == "auto":
            return 0
        try:
            number: int = read(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None
        return number

    return read_or_auto


def number(low: float, high: float) -> Reader:
    def read(value: str) -> float:
        try:
            result = float(value)
        except ValueError:
            result = float("nan")
        if not low <= result <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return result

    return read


def choice(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return value

    return read


def words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def patterns(value: str) -> tuple[str, ...]:
    """Comma-separated regular expressions, each matched against a whole URL without regard to case."""
    for pattern in (found := words(value)):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"expected regular expressions separated by commas; '{pattern}': {error}") from None
    return found


def pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return value


def json_object(value: str) -> Mapping[str, Any]:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object: {error}") from None
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object")
    return document


#: What an entry of `models={…}` and of a snapshot may say, and the type of it.
ENTRY_KEYS: dict[str, type] = {
    "defaultVersion": bool,
    "marName": str,
    "minWorkers": int,
    "maxWorkers": int,
    "batchSize": int,
    "maxBatchDelay": int,
    "responseTimeout": int,
    "startupTimeout": int,
    "parallelLevel": int,
    "runtimeType": str,
}


def models(value: str) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """`{"name": {"version": {"batchSize": 4, …}}}`. Numbers may be quoted, as Gson allows."""
    document = json_object(value)
    return {name: _versions(name, versions) for name, versions in document.items()}


def _versions(name: str, versions: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(versions, dict) or not all(isinstance(entry, dict) for entry in versions.values()):
        raise ValueError(f'expected {{"name": {{"version": {{…}}}}}}, which \'{name}\' is not')
    return {version: entry_of(f"{name}, {version}", entry) for version, entry in versions.items()}


def entry_of(where: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The known keys of a model's entry, checked; others are kept as they are (they have no effect, as in TorchServe)."""
    checked = dict(entry)
    for key, kind in ENTRY_KEYS.items():
        given = entry.get(key)
        if given is None:
            continue
        if kind is int and isinstance(given, str) and re.fullmatch(r"-?\d{1,9}", given):
            checked[key] = given = int(given)
        if not isinstance(given, kind) or (kind is int and isinstance(given, bool)):
            raise ValueError(f"expected {kind.__name__} for {key} of '{where}', got {json.dumps(given)}")
    return checked


def backend_config(value: str) -> Mapping[str, Mapping[str, str]]:
    """tritonserver's --backend-config, several separated by blanks: `backend,key=value`, "" for all backends."""
    found: dict[str, dict[str, str]] = {}
    for entry in value.split():
        match = re.fullmatch(r"([\w-]*),?([\w.-]+)=(.*)", entry)
        if match is None:
            raise ValueError(f"expected backend,key=value (several separated by blanks), got '{entry}'")
        found.setdefault(match[1], {})[match[2]] = match[3]
    return found


def cache_config(value: str) -> int:
    """tritonserver's --cache-config: `local,size=BYTES`; the size, 0 for no cache."""
    if not value:
        return 0
    match = re.fullmatch(r"local,size=(\d{1,15})", value.strip())
    if match is None:
        raise ValueError("expected local,size=BYTES")
    return int(match[1])


def envelope(value: str) -> str:
    if value and not re.fullmatch(r"\w{1,64}", value):
        raise ValueError("expected the name of a request envelope: body, json, kserve, kservev2")
    return value


def mode(value: str) -> str:
    """TorchServe falls back to log for a word it does not know; a typing error is better named."""
    return choice("log", "prometheus", "legacy")(value.strip().lower())


def oip(value: str) -> bool:
    return value == "oip" or switch(value)


def log_format(value: str) -> str:
    """Triton's names are `default` and ISO8601."""
    return choice("text", "json", "ISO8601")("text" if value == "default" else value)


def address(listener: str) -> Reader:
    return lambda value: parse_address(value, listener)


def flag(value: str) -> bool:
    """A switch that tritonserver takes as a number."""
    return value.strip() == "1" if value.strip() in ("0", "1") else switch(value)


def age(value: str) -> int:
    """Milliseconds that a connection may last, 0 = any time; Java's largest number, TorchServe's default, is that too."""
    found = integer(0, 2**63 - 1)(value)
    return 0 if found >= NEVER_MS else found


def header_name(value: str) -> str:
    """The name of an HTTP header."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError("expected the name of a header: letters, digits, - and _")
    return value


SECONDS = integer(-(2**31), 2**31 - 1)
#: gRPC counts milliseconds in a signed 32-bit integer, whose largest means never.
NEVER_MS = 2**31 - 1
MILLISECONDS, PORT = integer(0, NEVER_MS), integer(0, 65535)
NETTY = "tuning of TorchServe's network library; jitney's is http_threads"
JAVA = "there is no Java here"
INTEL = "Intel's launcher is not used"

TORCHSERVE: dict[str, Key] = {
    "inference_address": Key(address("inference"), "http://127.0.0.1:8080"),
    "management_address": Key(address("management"), "http://127.0.0.1:8081"),
    "metrics_address": Key(address("metrics"), "http://127.0.0.1:8082"),
    "model_store": Key(text),
    "workflow_store": Key(text),
    "load_models": Key(text, ""),
    "models": Key(models, "{}", ts_env=""),
    "model_snapshot": Key(json_object, ts_env=""),
    "default_workers_per_model": Key(integer(0, 4096), "0"),
    "default_response_timeout": Key(SECONDS, "120"),
    "default_startup_timeout": Key(SECONDS, "120"),
    "unregister_model_timeout": Key(integer(0), "120"),
    "job_queue_size": Key(integer(1), "100"),
    "number_of_gpu": Key(integer(0)),
    "max_request_size": Key(integer(1)),
    "max_response_size": Key(integer(1)),
    "limit_max_image_pixels": Key(switch, "true"),
    "decode_input_request": Key(switch, "true"),
    "ipex_enable": Key(switch, "false"),
    "ipex_gpu_enable": Key(switch, "false"),
    "default_service_handler": Key(text, ""),
    "service_envelope": Key(envelope, ""),
    "install_py_dep_per_model": Key(switch, "false"),
    "allowed_urls": Key(patterns, "file://.*|http(s)?://.*"),
    "use_env_allowed_urls": Key(switch, "false", ts_env=""),
    "blacklist_env_vars": Key(pattern, ""),
    "metrics_config": Key(text, ""),
    "metrics_mode": Key(mode),
    "model_metrics_auto_detect": Key(switch, "false"),
    "enable_metrics_api": Key(switch, "true"),
    "disable_system_metrics": Key(switch, "false"),
    "metric_time_interval": Key(integer(1), "60", ts_env=""),
    "cors_allowed_origin": Key(text, ""),
    "cors_allowed_methods": Key(text, ""),
    "cors_allowed_headers": Key(text, ""),
    "keystore": Key(text, ""),
    "keystore_pass": Key(text, "changeit"),
    "keystore_type": Key(text, "PKCS12"),
    "certificate_file": Key(text, ""),
    "private_key_file": Key(text, ""),
    "disable_token_authorization": Key(switch),
    "token_expiration_min": Key(number(0.001, 5_256_000), "60", ts_env="TS_TOKEN_EXPIRATION_TIME_MIN"),
    "enable_model_api": Key(switch),
    "ts_open_inference_protocol": Key(oip, "false"),
    "initial_worker_port": Key(integer(0, 65535), "9000"),
    "enable_envvars_config": Key(switch, "false", ts_env=""),
    "grpc_inference_address": Key(parse_host, "127.0.0.1"),
    "grpc_inference_port": Key(PORT),
    "grpc_management_address": Key(parse_host, "127.0.0.1"),
    "grpc_management_port": Key(PORT),
    "grpc_inference_max_connection_age_ms": Key(age, "0"),
    "grpc_inference_max_connection_age_grace_ms": Key(age, "0"),
    "grpc_management_max_connection_age_ms": Key(age, "0"),
    "grpc_management_max_connection_age_grace_ms": Key(age, "0"),
    "enable_grpc_ssl": Key(switch, "false"),
    "ts_header_key_sequence_id": Key(header_name, "ts_request_sequence_id", ts_env="TS_HEADER_KEY_SEQUENCE_ID"),
    "ts_header_key_sequence_start": Key(header_name, "ts_request_sequence_start", ts_env="TS_HEADER_KEY_SEQUENCE_START"),
    "ts_header_key_sequence_end": Key(header_name, "ts_request_sequence_end", ts_env="TS_HEADER_KEY_SEQUENCE_END"),
}

NO_MEANING: dict[str, str] = {
    **dict.fromkeys(["number_of_netty_threads", "netty_client_threads", "prefer_direct_buffer"], NETTY),
    **dict.fromkeys(["use_native_io", "io_ratio"], NETTY),
    **dict.fromkeys(["vmargs", "plugins_path", "model_server_home", "async_logging"], JAVA),
    "cpp_log_config": "there is no C++ backend here",
    **dict.fromkeys(["cpu_launcher_enable", "cpu_launcher_args"], INTEL),
    "system_metrics_cmd": "the server reads the system's metrics itself",
    "initial_distribution_port": "models that span several processes are not served",
    "debug": "workers are always started by the server",
}

#: Written into snapshots by TorchServe as facts about the run; read back without effect.
SNAPSHOT_FACTS = ("tsConfigFile", "version", "python")

JITNEY: dict[str, Key] = {
    "model_repository": Key(words, ""),
    "kserve_address": Key(address("inference")),
    "http_threads": Key(integer(1, 4096), "128"),
    "max_waiting": Key(integer(1, 1_000_000), "2048"),
    "max_held_bytes": Key(integer(1 << 20, 2**63 - 1), str(1 << 30)),
    "worker_max_memory": Key(integer(0, 2**63 - 1), "0"),
    "worker_max_files": Key(integer(0, 1_000_000), "0"),
    "worker_sandbox": Key(choice("off", "files", "network"), "off"),
    "max_connections_per_address": Key(integer(0, 1_000_000), "0"),
    "front_ends": Key(automatic(1, 256), "auto"),
    "status_page": Key(choice("on", "off"), "on"),
    "log_format": Key(log_format, "text"),
    "log_level": Key(choice("debug", "info", "warning", "error", "critical"), "info"),
    "log_file": Key(text, ""),
    "access_log": Key(choice("files", "terminal"), "files"),
    "grpc_front_ends": Key(integer(1, 256), "1"),
    "allow_private_urls": Key(switch, "false"),
    "shape_change": Key(choice("lane", "flush"), "lane"),
    "fast_path": Key(switch, "true"),
    "default_load": Key(choice("at_start", "on_demand"), "at_start"),
    "default_idle_timeout_s": Key(number(0, 2**31), "0"),
    "max_loaded_bytes": Key(integer(0, 2**63 - 1), "0"),
    "max_archive_bytes": Key(integer(1, 2**63 - 1), str(128 * 2**30)),
    "max_archive_entries": Key(integer(1, 10_000_000), "100000"),
    "max_archive_ratio": Key(integer(1, 1_000_000), "100"),
    "max_download_bytes": Key(integer(1, 2**63 - 1), str(64 * 2**30)),
    "download_timeout": Key(integer(1, 86_400), "600"),
    "install_timeout": Key(integer(1, 86_400), "1200"),
}

#: tritonserver's options that concern the repository and the life of the server, under their names with underscores.
TRITON: dict[str, Key] = {
    "model_control_mode": Key(choice("none", "poll", "explicit"), "none"),
    "load_model": Key(words, ""),
    "repository_poll_secs": Key(integer(1, 86_400), "15"),
    "strict_readiness": Key(switch, "true"),
    "exit_on_error": Key(switch),
    "exit_timeout_secs": Key(integer(0, 86_400), "30"),
    "disable_auto_complete_config": Key(switch, "false"),
    "backend_config": Key(backend_config, ""),
    "backend_directory": Key(text, ""),
    "cache_config": Key(cache_config, ""),
    "trace_config": Key(trace.parse, ""),
    "model_config_name": Key(text, ""),
    "server_id": Key(text, "triton"),
    "allow_client_shm": Key(switch, "true"),
    "http_header_forward_pattern": Key(pattern, ""),
    "http_restricted_api": Key(restrictions.parse, ""),
    "allow_grpc": Key(flag),
    "grpc_address": Key(parse_host, "127.0.0.1"),
    "grpc_port": Key(PORT),
    "grpc_use_ssl": Key(flag, "false"),
    "grpc_use_ssl_mutual": Key(flag, "false"),
    "grpc_server_cert": Key(text, ""),
    "grpc_server_key": Key(text, ""),
    "grpc_root_cert": Key(text, ""),
    "grpc_keepalive_time": Key(MILLISECONDS, "7200000"),
    "grpc_keepalive_timeout": Key(MILLISECONDS, "20000"),
    "grpc_keepalive_permit_without_calls": Key(flag, "false"),
    "grpc_http2_max_pings_without_data": Key(MILLISECONDS, "2"),
    "grpc_http2_min_recv_ping_interval_without_data": Key(MILLISECONDS, "300000"),
    "grpc_http2_max_ping_strikes": Key(MILLISECONDS, "2"),
    "grpc_max_connection_age": Key(age, "0"),
    "grpc_max_connection_age_grace": Key(age, "0"),
    "grpc_infer_response_compression_level": Key(choice("none", "low", "medium", "high"), "none"),
    "grpc_restricted_protocol": Key(restrictions.parse, ""),
    "grpc_header_forward_pattern": Key(pattern, ""),
}

#: Keys that earlier versions of jitney knew.
RETIRED: dict[str, str] = {
    "http_server": "there is one HTTP server, on waitress",
    "affinity": "it made no difference that could be measured; use taskset or a cpuset to bind the server to cores",
}

KEYS: dict[str, Key] = {
    **TORCHSERVE,
    **{name: Key(text, ts_env="", meaningless=reason) for name, reason in RETIRED.items()},
    **{name: Key(text, meaningless=reason) for name, reason in NO_MEANING.items()},
    **{name: Key(text, ts_env="", meaningless="-") for name in SNAPSHOT_FACTS},
    **{name: Key(key.read, key.default, ts_env="") for name, key in {**JITNEY, **TRITON}.items()},
}


def ts_env(name: str) -> str:
    """TorchServe's environment variable of a key, "" where there is none."""
    given = KEYS[name].ts_env
    if given is not None:
        return given
    return name.upper() if name.startswith("ts_") else f"TS_{name.upper()}"
