"""Where settings come from: the file that is chosen, the environment, flags; and how they are put together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import properties, snapshots
from .errors import InvalidConfig
from .settings_keys import KEYS, MAX_BYTES, SNAPSHOT_FACTS, TORCHSERVE_MAX_BYTES, entry_of, ts_env

#: Flags of `torchserve` whose names differ from the keys'.
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
    "plugins_path",
}
#: Seconds that a model of a repository may take to load where nobody says how long.
REPOSITORY_STARTUP_S = 1200
PATHS = ("model_store", "workflow_store", "metrics_config", "keystore", "certificate_file", "private_key_file", "log_config")


@dataclass(frozen=True)
class _Value:
    text: str
    source: str


def collect(flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """The values of all of `Settings`' fields. A flag of None or False was not given."""
    log_location = str(cwd / environ.get("LOG_LOCATION", "logs"))
    ncs = bool(flags.get("no_config_snapshots") or flags.get("ncs"))
    path = config_file(flags, environ, cwd, None if ncs else Path(log_location) / "config")
    notes: list[str] = []
    raw = _from_file(path, environ) if path else {}
    raw |= _from_ts_environment(environ, raw)
    raw |= _from_environment(environ, notes)
    raw |= _from_flags(flags)
    values = _read(raw)
    notes += [f"{key}={raw[key].text} has no effect: {KEYS[key].meaningless}" for key in raw if _meaningless(key)]
    said = "default_startup_timeout" in raw
    values["repository_startup_timeout"] = values["default_startup_timeout"] if said else REPOSITORY_STARTUP_S
    values["log_config"] = str(flags.get("log_config") or "")
    _complete(values, cwd)
    return values | {
        "log_location": log_location,
        "metrics_location": str(cwd / environ.get("METRICS_LOCATION", "logs")),
        "token": environ.get("JITNEY_TOKEN", ""),
        "write_snapshots": not ncs,
        "source": str(path or ""),
        "live": _live(raw, values, path),
        "notes": tuple(notes),
    }


def config_file(
    flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path, snapshot_folder: Path | None
) -> Path | None:
    """TorchServe's choice: TS_CONFIG_FILE, --ts-config, the newest snapshot, ./config.properties. One that is named must
    exist (TorchServe passes over a TS_CONFIG_FILE that does not)."""
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


def _from_file(path: Path, environ: Mapping[str, str]) -> dict[str, _Value]:
    try:
        found = properties.decode(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}") from None
    for key in found:
        _known(key, str(path))
    return {key: _Value(_expand(value, environ), str(path)) for key, value in found.items()}


def _expand(value: str, environ: Mapping[str, str]) -> str:
    """Replaces `$$VAR$$` by the environment's VAR, as TorchServe does."""

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise InvalidConfig(f"Invalid Environment Variable {match[1]}: $${match[1]}$$ is used and unset")
        return environ[match[1]]

    return re.sub(r"\$\$([^$]+)\$\$", value_of, value)


def _from_ts_environment(environ: Mapping[str, str], raw: Mapping[str, _Value]) -> dict[str, _Value]:
    def on(key: str) -> bool:
        return key in raw and raw[key].text.strip().lower() == "true"

    found = {}
    if environ.get("TS_OPEN_INFERENCE_PROTOCOL") == "oip":
        found["ts_open_inference_protocol"] = _Value("true", "TS_OPEN_INFERENCE_PROTOCOL")
    if not on("enable_envvars_config"):
        return found
    for key in KEYS:
        name = ts_env(key)
        if name and name in environ and (key != "allowed_urls" or on("use_env_allowed_urls")):
            found[key] = _Value(environ[name], name)
    return found


def _from_environment(environ: Mapping[str, str], notes: list[str]) -> dict[str, _Value]:
    found = {}
    for name, value in environ.items():
        key = name.removeprefix("JITNEY_").lower()
        if not name.startswith("JITNEY_") or name in ("JITNEY_TOKEN", "JITNEY_CONFORMANCE"):
            continue
        if key in KEYS:
            found[key] = _Value(value, name)
        else:
            notes.append(f"the environment's {name} has no effect: no setting has this name{_nearest(key)}")
    return found


def _from_flags(flags: Mapping[str, Any]) -> dict[str, _Value]:
    found = {}
    for flag, value in flags.items():
        key = FLAG_KEYS.get(flag, flag)
        if flag in FLAG_COMMANDS | FLAG_FIELDS or value is None or value is False:
            continue
        _known(key, "command line")
        text = ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
        found[key] = _Value("true" if value is True else text, f"--{flag.replace('_', '-')}")
    return found


def _known(key: str, source: str) -> None:
    if key not in KEYS:
        raise InvalidConfig(f"{source}: unknown setting '{key}'{_nearest(key)}")


def _nearest(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    return f"; the nearest known one is '{close[0]}'" if close else ""


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
    """What depends on other keys: absolute paths, and TorchServe's limits where it is TorchServe that is replaced."""
    like_torchserve = bool(values.get("model_store")) or not values["model_repository"]
    for name in ("max_request_size", "max_response_size"):
        values.setdefault(name, TORCHSERVE_MAX_BYTES if like_torchserve else MAX_BYTES)
    values.setdefault("exit_on_error", not like_torchserve)  # TorchServe starts without a model that fails, Triton does not
    values.setdefault("metrics_mode", "log" if like_torchserve else "prometheus")
    for name in PATHS:
        if values.get(name):
            values[name] = str(cwd / values[name])
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
