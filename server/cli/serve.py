"""`jitney serve`: from its flags to a server in the foreground."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import InvalidConfig
from ..process import threads
from ..repository.triton.strays import holds_archives, is_archive
from . import observing
from .no_meaning import without_meaning
from .serve_parser import serve_parser

#: Seconds between looks at the files with --watch.
WATCH_SECONDS = 1


def serve(arguments: Sequence[str]) -> int:
    require_linux()
    with threads.one_for_blas():
        from ..main import run
    from ..lifecycle.startup import with_archives
    from ..settings.settings import Settings

    flags = serve_flags(arguments)
    flags.setdefault("exit_on_error", "false")
    settings = Settings.load(flags, os.environ)
    if not settings.model_repository and not settings.model_store:
        raise InvalidConfig("jitney serve needs a folder of models or archives: jitney serve DIR")
    return run(with_archives(settings) if "model_store" in flags else settings)


def require_linux() -> None:
    """InvalidConfig on another system, before something of it is missing in the middle of a start."""
    if sys.platform != "linux":
        raise InvalidConfig(
            f"a server needs Linux (memfd, epoll), and this is {sys.platform}; run it in a container or a virtual machine, on "
            "Windows also in WSL"
        )


def serve_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags of `jitney serve` as `Settings.load` takes them; says once what has no meaning here."""
    no_meaning = without_meaning(arguments)
    parser = serve_parser(no_meaning)
    parsed, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        parser.error(_unrecognized(unknown, parser.format_help()))
    given = vars(parsed)
    given.pop("no_meaning")
    watch = given.pop("watch")
    if watch:
        if given["model_control_mode"] not in (None, "poll"):
            parser.error(f"--watch is --model-control-mode poll, not {given['model_control_mode']}; leave one of them out")
        given |= {"model_control_mode": "poll", "repository_poll_secs": given["repository_poll_secs"] or WATCH_SECONDS}
    for option in dict.fromkeys(argument.split("=")[0] for argument in arguments):
        if option in no_meaning:
            print(f"{option} has no effect: {no_meaning[option]}", file=sys.stderr)
    flags: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    flags.update(_addresses(flags))
    flags.update(observing.log_level(flags))
    flags.update(observing.trace_config(flags))
    flags.update(_folders(flags.pop("model_repository", []), flags.pop("model_store", []), flags.pop("folders")))
    if watch and "model_store" in flags:
        print(
            f"--watch has no effect on archives, here those of {flags['model_store']}: register them anew", file=sys.stderr
        )
    if (load := flags.get("load_model")) is not None:
        flags["load_model"] = [name for value in load for name in value.split(",")]
    if (size := flags.pop("response_cache_byte_size", None)) is not None:
        flags.setdefault("cache_config", f"local,size={size}")
    for name in ("backend_config", "http_restricted_api", "grpc_restricted_protocol"):
        if name in flags:
            flags[name] = " ".join(flags[name])
    for name in ("strict_readiness", "exit_on_error", "allow_client_shm", "enable_metrics_api"):
        if name in flags:
            flags[name] = "true" if flags[name] else "false"
    return flags | {"no_config_snapshots": True}


def _unrecognized(unknown: Sequence[str], known: str) -> str:
    """What to type instead of arguments that `jitney serve` does not take; `known` is the help, which has all that it does."""
    text = f"unrecognized arguments: {' '.join(unknown)}"
    option = "--" + unknown[0].lstrip("-").replace("_", "-").split("=")[0].lower()
    close = difflib.get_close_matches(option, re.findall(r"--[a-z-]+[a-z]", known), n=1)
    return f"{text}; did you mean {close[0]}?" if close else text


def _folders(repositories: list[str], stores: list[str], unnamed: list[str]) -> dict[str, Any]:
    """What `--model-repository`, `--model-store` and words without a flag name, as settings.

    tritonserver has both words for a repository. So a folder is a store of archives where it holds some, or where a repository
    is named beside it. One without a flag is a store where it holds archives.
    """
    for folder in unnamed:
        _require_folder(folder)
    archives = [folder for folder in stores if repositories or holds_archives(Path(folder))]
    archives += [folder for folder in unnamed if holds_archives(Path(folder))]
    if len(archives) > 1:
        raise InvalidConfig(f"expected one --model-store, got {' and '.join(archives)}")
    named = repositories + [folder for folder in (*stores, *unnamed) if folder not in archives]
    return ({"model_repository": named} if named else {}) | ({"model_store": archives[0]} if archives else {})


def _require_folder(named: str) -> None:
    """InvalidConfig where a word without a flag is no folder: what it is, and what to type instead."""
    path = Path(named)
    if path.is_dir():
        return
    if not path.exists():
        raise InvalidConfig(f"there is no folder '{named}'; expected one with models, or with archives")
    folder = path.parent if is_archive(path) else "DIR"
    hint = f"serve its folder: jitney serve {folder}" if is_archive(path) else f"a model is {folder}/NAME/1/{path.name}"
    raise InvalidConfig(f"'{named}' is a file, expected a folder with models, or with archives; {hint}")


def _addresses(flags: dict[str, Any]) -> dict[str, str]:
    """`--http-address`, `--http-port` and their like, where any was given, as what they change of the addresses that the file or
    the environment has: `//host:port`, without what was not given.

    `--http-address` opens the inference port alone: metrics need no token, and management is for this machine.
    """
    host, metrics_host = flags.pop("http_address", None), flags.pop("metrics_address", None)
    ports = {name: flags.pop(f"{name}_port", None) for name in ("http", "management", "metrics")}
    found = {}
    for name, at in (("http", host), ("management", None), ("metrics", metrics_host)):
        port = "" if ports[name] is None else f":{ports[name]}"
        if at or port:
            at = f"[{at}]" if at and ":" in at and not at.startswith("[") else at or ""
            found["inference_address" if name == "http" else f"{name}_address"] = f"//{at}{port}"
    return found
