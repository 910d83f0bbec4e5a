"""Where settings come from: the file that is chosen, the environment, flags; and how they are put together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import InvalidConfig
from . import grpc, properties, snapshots
from .addresses import changed, parse_address
from .keys import KEYS, MAX_BYTES, SNAPSHOT_FACTS, TORCHSERVE_MAX_BYTES, entry_of, ts_env
from .unknown import guard_near, is_service_link, nearest

#: Flags of `torchserve` whose names differ from the keys'.
_LISTENERS = ("inference_address", "management_address", "metrics_address")
FLAG_KEYS = {"models": "load_models", "disable_token_auth": "disable_token_authorization"}
#: Flags that are no keys; `Settings` fields where they have one.
FLAG_FIELDS = {"log_config"}
FLAG_COMMANDS = {
    "start",
    "stop",
    "version",
    "foreground",
    "ts_config",
    "no_config_snapshots",
    "ncs",
    "ppath",
}
#: Variables with the settings' prefixes that are read elsewhere, or by TorchServe's workers and tests only.
OTHER_TS_NAMES = {"TS_CONFIG_FILE", "TS_BENCHMARK", *(f"TS_REQUEST_SEQUENCE_{part}" for part in ("ID", "START", "END"))}
OTHER_JITNEY_NAMES = {"JITNEY_TOKEN", "JITNEY_CONFORMANCE", "JITNEY_SLOW_TESTS", "JITNEY_IMAGE_TESTS", "JITNEY_DEFAULTS"}
#: TorchServe's switches that open nothing while they are off.
CLOSED_WHEN_FALSE = {
    *("disable_token_authorization", "enable_model_api", "enable_metrics_api", "disable_system_metrics"),
    *("install_py_dep_per_model", "decode_input_request", "model_metrics_auto_detect", "ipex_enable", "ipex_gpu_enable"),
}
#: Seconds that a model of a repository may take to load where no setting says how long.
REPOSITORY_STARTUP_S = 1200
PATHS = (
    *(
        "model_store",
        "workflow_store",
        "metrics_config",
        "keystore",
        "certificate_file",
        "private_key_file",
        "log_config",
        "log_file",
    ),
    *("grpc_server_cert", "grpc_server_key", "grpc_root_cert"),
)


@dataclass(frozen=True)
class _Value:
    text: str
    source: str


def collect(flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path, *, strict: bool = True) -> dict[str, Any]:
    """The values of all of `Settings`' fields. A flag of None or False was not given. `strict`: the file may hold known keys
    only; otherwise unknown ones are warned of, but for those that are close to a key which guards access."""
    log_location = str(cwd / environ.get("LOG_LOCATION", "logs"))
    ncs = bool(flags.get("no_config_snapshots") or flags.get("ncs"))
    path = config_file(flags, environ, cwd, None if ncs else Path(log_location) / "config")
    notes: list[str] = []
    warnings: list[str] = []
    raw = _from_defaults(environ, cwd)
    raw |= _from_file(path, environ, strict, warnings) if path else {}
    raw |= _from_ts_environment(environ, raw, strict, warnings)
    raw |= _from_environment(environ, warnings)
    raw |= _from_flags(flags, raw)
    values = _read(raw)
    notes += [f"{key}={raw[key].text} has no effect: {KEYS[key].meaningless}" for key in raw if _meaningless(key)]
    said = "default_startup_timeout" in raw
    values["repository_startup_timeout"] = values["default_startup_timeout"] if said else REPOSITORY_STARTUP_S
    values["log_config"] = str(flags.get("log_config") or "")
    _complete(values, cwd)
    live, served = _live(raw, values, path), grpc.take(values)
    return values | {
        "grpc": served,
        "log_location": log_location,
        "metrics_location": str(cwd / environ.get("METRICS_LOCATION", "logs")),
        "token": environ.get("JITNEY_TOKEN", ""),
        "write_snapshots": not ncs,
        "source": str(path or ""),
        "live": live,
        "notes": tuple(notes),
        "warnings": tuple(warnings),
    }


def config_file(
    flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path, snapshot_folder: Path | None
) -> Path | None:
    """TorchServe's choice: TS_CONFIG_FILE, --ts-config, the newest snapshot, ./config.properties. What is named must be there."""
    if environ.get("TS_CONFIG_FILE"):
        named = cwd / environ["TS_CONFIG_FILE"]
        if not named.is_file():
            raise InvalidConfig(f"TS_CONFIG_FILE names '{named}', where there is no file")
        return named
    if flags.get("ts_config"):
        named = cwd / str(flags["ts_config"])
        if not named.is_file():
            raise InvalidConfig(f"--ts-config file not found: {flags['ts_config']}")
        return named
    newest = snapshots.newest(snapshot_folder) if snapshot_folder else None
    default = cwd / "config.properties"
    return newest or (default if default.is_file() else None)


def _from_defaults(environ: Mapping[str, str], cwd: Path) -> dict[str, _Value]:
    """What the file that JITNEY_DEFAULTS names says: it stands in for jitney's defaults, and everything else beats it. An image
    has one, so that it opens no more than a `config.properties` of the user's does. A token that is given decides by itself."""
    named = environ.get("JITNEY_DEFAULTS", "")
    if not named:
        return {}
    if not (cwd / named).is_file():
        raise InvalidConfig(f"JITNEY_DEFAULTS names '{cwd / named}', where there is no file")
    found = _from_file(cwd / named, environ, True, [])
    if environ.get("JITNEY_TOKEN"):
        found.pop("disable_token_authorization", None)
    return found


def _from_file(path: Path, environ: Mapping[str, str], strict: bool, warnings: list[str]) -> dict[str, _Value]:
    try:
        found = properties.decode(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}") from None
    for key in found:
        if strict:
            _known(key, str(path))
        elif key not in KEYS:
            warnings.append(_harmless(key, key, str(path)))
    read = {key: _Value(_expand(value, environ), str(path)) for key, value in found.items() if key in KEYS}
    return read if strict else {key: _closed(key, value, warnings) for key, value in read.items()}


def _closed(key: str, value: _Value, warnings: list[str]) -> _Value:
    """What TorchServe takes for a switch's text that is neither true nor false: false, where this is the switch's closed side."""
    if key not in CLOSED_WHEN_FALSE or value.text.strip().lower() in ("true", "false"):
        return value
    warnings.append(f"{value.source}: {key} is {value.text[:200]!r}, expected true or false; it is false, as in TorchServe")
    return _Value("false", value.source)


def _expand(value: str, environ: Mapping[str, str]) -> str:
    """Replaces `$$VAR$$` by the environment's VAR, as TorchServe does."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise InvalidConfig(f"Invalid Environment Variable {match[1]}: $${match[1]}$$ is used and unset")
        return environ[match[1]]

    return re.sub(r"\$\$([^$]+)\$\$", value_of, value)


def _from_ts_environment(
    environ: Mapping[str, str], raw: Mapping[str, _Value], strict: bool, warnings: list[str]
) -> dict[str, _Value]:
    def on(key: str) -> bool:
        return key in raw and raw[key].text.strip().lower() == "true"

    found = {}
    if environ.get("TS_OPEN_INFERENCE_PROTOCOL") == "oip":
        found["ts_open_inference_protocol"] = _Value("true", "TS_OPEN_INFERENCE_PROTOCOL")
    if not on("enable_envvars_config"):
        return found
    names = {ts_env(key): key for key in KEYS if ts_env(key)}
    for name, value in environ.items():
        key = names.get(name, "")
        if key and (key != "allowed_urls" or on("use_env_allowed_urls")):
            found[key] = _Value(value, name) if strict else _closed(key, _Value(value, name), warnings)
        elif not key and name.startswith("TS_") and name not in OTHER_TS_NAMES and not is_service_link(name, value):
            warnings.append(_harmless(name.removeprefix("TS_"), name, "environment"))
    return found


def _from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, _Value]:
    found = {}
    for name, value in environ.items():
        key = name.removeprefix("JITNEY_").lower()
        if not name.startswith("JITNEY_") or name in OTHER_JITNEY_NAMES or is_service_link(name, value):
            continue
        if key in KEYS:
            found[key] = _Value(value, name)
        else:
            warnings.append(_harmless(key, name, "environment"))
    return found


def _from_flags(flags: Mapping[str, Any], given: Mapping[str, _Value]) -> dict[str, _Value]:
    """Values of flags; one that begins with `//` changes parts of the address that was `given` elsewhere."""
    found = {}
    for flag, value in flags.items():
        key = FLAG_KEYS.get(flag, flag)
        if flag in FLAG_COMMANDS | FLAG_FIELDS or value is None or value is False:
            continue
        _known(key, "command line")
        text = ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
        if key in _LISTENERS and text.startswith("//"):
            text = _changed(key, text, given)
        found[key] = _Value("true" if value is True else text, f"--{flag.replace('_', '-')}")
    return found


def _changed(key: str, reference: str, given: Mapping[str, _Value]) -> str:
    default = str(KEYS[key].default)
    before = given[key] if key in given else _Value(default, "default")
    try:
        address = parse_address(before.text, key.removesuffix("_address"))
    except ValueError as error:
        raise InvalidConfig(f"{before.source}: {key} is {before.text[:200]!r}: {error}") from None
    return str(changed(address, reference, parse_address(default)))


def _known(key: str, source: str) -> None:
    if key not in KEYS:
        raise InvalidConfig(f"{source}: unknown setting '{key}'{_nearest(key)}")


def _harmless(key: str, name: str, where: str) -> str:
    """The warning of a name that no setting has; InvalidConfig where it may stand for a key that guards access."""
    guard = guard_near(key)
    if guard:
        raise InvalidConfig(
            f"{where}: unknown setting '{name}'; the nearest known one is '{guard}', which decides who may reach or manage the "
            "server: correct it, or take it out"
        )
    return f"{where}: {name} has no effect: no setting has this name{_nearest(key)}"


def _nearest(key: str) -> str:
    found = nearest(key)
    return f"; the nearest known one is '{found}'" if found else ""


def _meaningless(key: str) -> bool:
    return bool(KEYS[key].meaningless) and key not in SNAPSHOT_FACTS


def _read(raw: Mapping[str, _Value]) -> dict[str, Any]:
    """Every key that has a meaning, as its value; unset ones as their default."""
    values = {}
    for name, key in KEYS.items():
        if key.meaningless:
            continue
        given = raw.get(name)
        text = given.text if given else key.default
        if text is None:
            continue
        try:
            values[name] = key.read(text)
        except ValueError as error:
            source = given.source if given else "default"
            shown = "…" if name == "keystore_pass" else repr(text[:200])
            raise InvalidConfig(f"{source}: {name} is {shown}: {error}") from None
    return values


def _complete(values: dict[str, Any], cwd: Path) -> None:
    """What depends on other keys: absolute paths, and TorchServe's limits where it is TorchServe that is replaced.

    A store beside a repository does not lower the limits of the repository's models.
    """
    like_torchserve = bool(values.get("model_store")) or not values["model_repository"]
    for name in ("max_request_size", "max_response_size"):
        values.setdefault(name, MAX_BYTES if values["model_repository"] else TORCHSERVE_MAX_BYTES)
    values.setdefault("exit_on_error", not like_torchserve)  # TorchServe starts without a model that fails, Triton does not
    values.setdefault("metrics_mode", "log" if like_torchserve else "prometheus")
    for name in PATHS:
        if values.get(name):
            values[name] = str(cwd / values[name])
    values["trace_config"] = values["trace_config"].within(cwd)
    values["model_repository"] = tuple(str(cwd / folder) for folder in values["model_repository"])
    values.setdefault("workflow_store", values.get("model_store"))
    if values.get("model_snapshot") is not None:
        snapshots.check(values["model_snapshot"], entry_of)


def _live(raw: Mapping[str, _Value], values: Mapping[str, Any], path: Path | None) -> dict[str, str]:
    """The properties in effect under their own names, for snapshots; the snapshot itself replaces `model_snapshot`."""
    live = {key: value.text for key, value in _without_facts(raw) if key != "model_snapshot"}
    for key in ("inference_address", "management_address", "metrics_address"):
        live[key] = str(values[key]) if key in live else KEYS[key].default
    for key in ("model_store", "workflow_store"):
        if values.get(key):
            live[key] = values[key]
    if path is not None:
        live["tsConfigFile"] = str(path)
    return live


def _without_facts(raw: Mapping[str, _Value]) -> Iterator[tuple[str, _Value]]:
    return ((key, value) for key, value in raw.items() if key not in SNAPSHOT_FACTS)
