"""The `jitney` command.

jitney demo                                serves a small model that comes with jitney, and shows what a client sends and gets
jitney init NAME --backend onnx …          writes a model to begin with, and says how to serve and ask it
jitney check DIR|FILE.mar …                says what is wrong with models, without serving them
jitney serve DIR …                         serve a folder of models or archives in the foreground; tritonserver's flags
jitney --start --model-store DIR …         torchserve's flags: start (detached), --stop, --version
jitney archive …                           torch-model-archiver's flags: make a model archive
jitney bench MODEL …                       a model's latency under load, beside what batching can reach
jitney tune MODEL …                        finds the parameters and number of workers that are fastest on this machine
jitney completion bash|zsh|fish            prints what makes a shell complete these commands
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ... import __version__
from ...core.errors import InvalidConfig, NothingAnswers
from ..process import threads
from ..repository.triton.strays import holds_archives, is_archive
from . import observing
from . import torchserve as torchserve_cli

#: Options of tritonserver that change nothing here, with the reason that is printed once.
_GRPC = {
    "--reuse-grpc-port": "one server owns each port",
    "--grpc-infer-allocation-pool-size": "there is no such pool here",
    "--grpc-max-response-pool-size": "there is no such pool here",
    "--grpc-infer-thread-count": "use --grpc-front-ends",
}
NO_MEANING = {
    **_GRPC,
    **{f"--{name}": "SageMaker's routes share the inference port" for name in ("allow-sagemaker", "sagemaker-port")},
    **{
        f"--sagemaker-{name}": "SageMaker's routes have no port of their own" for name in ("safe-port-range", "thread-count")
    },
    **{f"--{name}": "Vertex AI's routes are not served" for name in ("allow-vertex-ai", "vertex-ai-port")},
    **{f"--vertex-ai-{name}": "Vertex AI's routes are not served" for name in ("thread-count", "default-model")},
    "--host-policy": "set CPU affinity outside of the server",
    "--model-load-gpu-limit": "the framework decides how much of a GPU it takes",
    "--enable-peer-access": "GPUs do not exchange tensors",
    "--metrics-config": "counters and the histograms of jitney are always shown, Triton's summaries never",
    "--allow-http": "HTTP is always served",
    "--allow-gpu-metrics": "GPU metrics need no switch",
    "--allow-cpu-metrics": "CPU metrics need no switch",
    "--metrics-interval-ms": "metrics are read when they are asked for",
    "--http-thread-count": "use http_threads in config.properties",
    "--model-load-thread-count": "models load four at a time",
    "--model-load-retry-count": "a load that fails is not tried again by itself",
    "--model-namespacing": "model names are unique over all repositories",
    "--buffer-manager-thread-count": "there is no such pool here",
    "--pinned-memory-pool-byte-size": "pinned memory belongs to each worker",
    "--cuda-memory-pool-byte-size": "CUDA memory belongs to each worker",
    "--cuda-virtual-address-size": "CUDA memory belongs to each worker",
    "--min-supported-compute-capability": "the framework decides",
    "--repoagent-directory": "repository agents are not supported",
    "--cache-directory": "the response cache is in-process",
    "--strict-model-config": "use --disable-auto-complete-config",
    "--rate-limit": "there is no rate limiter; instance_group.count bounds what runs at once",
    "--rate-limit-resource": "there is no rate limiter; instance_group.count bounds what runs at once",
    "--reuse-http-port": "one process owns each port",
}
#: Options of newer versions of tritonserver that begin so change nothing either, whatever they are called.
NO_MEANING_PREFIXES = {
    "--grpc-": "nothing here has such an option",
    "--sagemaker-": "SageMaker's routes share the inference port",
    "--vertex-ai-": "Vertex AI's routes are not served",
    "--trace-": "--trace-config has no such setting",
}


#: Seconds between looks at the files with --watch.
WATCH_SECONDS = 1


def without_meaning(arguments: Sequence[str]) -> dict[str, str]:
    """tritonserver's options that change nothing here, with the reason; those in `arguments` that only their beginning tells."""
    options = [argument.split("=")[0] for argument in arguments]
    newer = {option: why for option in options for start, why in NO_MEANING_PREFIXES.items() if option.startswith(start)}
    return {
        option: why for option, why in (newer | NO_MEANING).items() if option not in _GRPC_OPTIONS | observing.TRACE_OPTIONS
    }


def switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError("expected true or false")
    return text.lower() in ("true", "1")


def port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got '{text}'")
    return int(text)


def serve_parser(no_meaning: Iterable[str] = NO_MEANING) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jitney serve",
        description="Serve model repositories, TorchServe archives, or both. Options have tritonserver's names and meaning.",
    )
    add = parser.add_argument
    add("folders", nargs="*", metavar="DIR", help="folder with models, or with TorchServe archives")
    add("--model-repository", action="append", metavar="DIR", help="folder with models; repeatable")
    add(
        "--model-store",
        action="append",
        metavar="DIR",
        help="folder with TorchServe archives, all of which are loaded unless load_models or --load-model says otherwise",
    )
    add("--config", "--ts-config", dest="ts_config", metavar="FILE", help="config.properties")
    add(
        "--models",
        "--load-model",
        dest="load_model",
        action="append",
        metavar="NAME",
        help="load only this model; repeatable",
    )
    add("--model-control-mode", choices=("none", "poll", "explicit"), help="who loads models after the start (none)")
    add("--repository-poll-secs", type=int, metavar="N", help="seconds between looks at the folders in mode poll (15)")
    add("--watch", action="store_true", help="for development: load a model anew when a file of it changes (poll, 1 s)")
    add("--strict-readiness", type=switch, metavar="BOOL", help="ready only while every model is ready (true)")
    add("--exit-on-error", type=switch, metavar="BOOL", help="end if a model fails to load at start (false)")
    add("--disable-auto-complete-config", action="store_true", help="do not complete configurations from model files")
    add("--model-config-name", metavar="NAME", help="read configs/NAME.pbtxt instead of config.pbtxt")
    add("--backend-config", action="append", metavar="BACKEND,KEY=VALUE", help="e.g. onnxruntime,default-max-batch-size=8")
    add("--backend-directory", metavar="DIR", help="folder with Python-based backends: NAME/model.py for backend NAME")
    add("--response-cache-byte-size", type=int, metavar="BYTES", help="the same as --cache-config=local,size=BYTES")
    add("--cache-config", metavar="local,size=BYTES", help="size of the response cache")
    add("--id", dest="server_id", metavar="NAME", help="what GET /v2 calls the server (triton)")
    add("--http-address", metavar="HOST", help="address of the inference port (127.0.0.1)")
    add("--http-port", type=port, metavar="PORT", help="inference port (8080)")
    add("--management-port", type=port, metavar="PORT", help="management port (8081)")
    add("--metrics-address", metavar="HOST", help="address of the metrics port (127.0.0.1)")
    add("--metrics-port", type=port, metavar="PORT", help="metrics port (8082)")
    add("--http-max-input-size", dest="max_request_size", type=int, metavar="BYTES", help="largest request body (67108864)")
    add(
        "--http-header-forward-pattern", metavar="REGEX", help="headers that become parameters of KServe requests for models"
    )
    add(
        "--http-restricted-api",
        action="append",
        metavar="API,…:HEADER=VALUE",
        help="routes that need a header, e.g. model-repository,statistics:admin-key=secret; repeatable",
    )
    add_grpc(parser)
    observing.add_trace(parser)
    add("--allow-client-shm", type=switch, metavar="BOOL", help="clients may register shared memory (true)")
    add("--allow-metrics", dest="enable_metrics_api", type=switch, metavar="BOOL", help="serve the metrics port (true)")
    add("--exit-timeout-secs", type=int, metavar="N", help="seconds that accepted requests may take at the end (30)")
    add(
        "--shape-change",
        choices=("lane", "flush"),
        help="an odd shape waits in a lane of its own, or closes the batch (lane)",
    )
    add("--default-load", choices=("at_start", "on_demand"), help="when models are loaded that do not say so (at_start)")
    add(
        "--default-idle-timeout-s",
        type=float,
        metavar="N",
        help="seconds without a request after which what was loaded on demand is unloaded (0: when memory runs short)",
    )
    add(
        "--max-loaded-bytes",
        type=int,
        metavar="BYTES",
        help="what all that was loaded on demand may take together (0: what the machine has)",
    )
    observing.add_logging(parser, switch)
    add("--disable-token-auth", action="store_true", help="serve non-loopback addresses without tokens")
    for option in no_meaning:
        add(option, dest="no_meaning", action="append", nargs="?", const=option, help=argparse.SUPPRESS)
    return parser


#: What every gRPC flag of tritonserver's is called, what it takes, and what it does.
_GRPC_FLAGS = (
    ("allow-grpc", "BOOL", "serve gRPC (where the package grpcio is installed)"),
    ("grpc-port", "PORT", "port of Triton's gRPC service (8001)"),
    ("grpc-address", "HOST", "address of that port (127.0.0.1)"),
    ("grpc-front-ends", "N", "processes that answer gRPC (1)"),
    ("grpc-header-forward-pattern", "REGEX", "metadata that becomes parameters of requests for models"),
    ("grpc-infer-response-compression-level", "LEVEL", "none, low, medium or high (none)"),
    ("grpc-use-ssl", "BOOL", "speak TLS on the gRPC port, with --grpc-server-cert and --grpc-server-key"),
    ("grpc-use-ssl-mutual", "BOOL", "and have clients show a certificate that --grpc-root-cert signed"),
    ("grpc-server-cert", "FILE", "certificate and its chain, PEM"),
    ("grpc-server-key", "FILE", "its private key, PEM"),
    ("grpc-root-cert", "FILE", "certificates that clients' are signed by, PEM"),
    ("grpc-keepalive-time", "MS", "milliseconds without data after which a client is pinged (7200000)"),
    ("grpc-keepalive-timeout", "MS", "milliseconds that it has to answer (20000)"),
    ("grpc-keepalive-permit-without-calls", "BOOL", "ping also where no call is under way (false)"),
    ("grpc-http2-max-pings-without-data", "N", "pings that are sent without data between them (2)"),
    ("grpc-http2-min-recv-ping-interval-without-data", "MS", "shortest time between a client's pings (300000)"),
    ("grpc-http2-max-ping-strikes", "N", "pings that may come too soon before the connection is closed (2)"),
    ("grpc-max-connection-age", "MS", "how long a connection may last (0: any time)"),
    ("grpc-max-connection-age-grace", "MS", "how long its calls may go on then (0: any time)"),
)
_GRPC_OPTIONS = {"--grpc-restricted-protocol", *(f"--{name}" for name, _, _ in _GRPC_FLAGS)}
#: Those of its flags that may stand alone, for true.
_ALONE = ("allow-grpc", "grpc-use-ssl", "grpc-use-ssl-mutual", "grpc-keepalive-permit-without-calls")


def add_grpc(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of gRPC; `Settings` reads and checks their values."""
    for name, metavar, text in _GRPC_FLAGS:
        if name in _ALONE:
            parser.add_argument(f"--{name}", metavar=metavar, help=text, nargs="?", const="true")
        else:
            parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument(
        "--grpc-restricted-protocol",
        action="append",
        metavar="API,…:KEY=VALUE",
        help="calls that need metadata triton-grpc-protocol-KEY, e.g. model-repository:admin-key=secret; repeatable",
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
    if (config := flags.get("backend_config")) is not None:
        flags["backend_config"] = " ".join(config)
    if (size := flags.pop("response_cache_byte_size", None)) is not None:
        flags.setdefault("cache_config", f"local,size={size}")
    if (restricted := flags.get("http_restricted_api")) is not None:
        flags["http_restricted_api"] = " ".join(restricted)
    if (restricted := flags.get("grpc_restricted_protocol")) is not None:
        flags["grpc_restricted_protocol"] = " ".join(restricted)
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


def _unknown_command(word: str) -> str:
    """What to type instead of a first word that is no command: the nearest one, or the flag of torchserve's that is called so."""
    near = difflib.get_close_matches(word.lower(), [*COMMANDS, *_FLAGS], n=1)
    meant = f"; did you mean `jitney {'--' * (near[0] in _FLAGS)}{near[0]}`?" if near else ""
    return f"unknown command '{word}', expected {', '.join(COMMANDS)} or torchserve's flags{meant}"


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
    """`--http-address`, `--http-port` and their like as addresses of config.properties, where any was given.

    `--http-address` opens the inference port alone: metrics need no token, and management is for this machine.
    """
    host, metrics_host = flags.pop("http_address", None), flags.pop("metrics_address", None)
    ports = {name: flags.pop(f"{name}_port", None) for name in ("http", "management", "metrics")}
    found = {}
    for name, at, port in (("http", host, 8080), ("management", None, 8081), ("metrics", metrics_host, 8082)):
        given = ports[name]
        if at or given is not None:
            key = "inference_address" if name == "http" else f"{name}_address"
            found[key] = f"http://{at or '127.0.0.1'}:{port if given is None else given}"
    return found


def serve(arguments: Sequence[str]) -> int:
    _require_linux()
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


def archive(arguments: Sequence[str]) -> int:
    from ...tools.archive import main

    return main(list(arguments))


def bench(arguments: Sequence[str]) -> int:
    from ...tools.bench.command import main

    return main(list(arguments))


def tune(arguments: Sequence[str]) -> int:
    from ...tools.tune.command import main

    return main(list(arguments))


def demo(arguments: Sequence[str]) -> int:
    from ...tools.first_steps import main

    return main(list(arguments))


def init(arguments: Sequence[str]) -> int:
    from ...tools.init import main

    return main(list(arguments))


def check(arguments: Sequence[str]) -> int:
    from ...tools.check.command import main

    return main(list(arguments))


def complete(arguments: Sequence[str]) -> int:
    from .completion import main

    return main(list(arguments))


def _require_linux() -> None:
    """InvalidConfig on another system, before something of it is missing in the middle of a start."""
    if sys.platform != "linux":
        raise InvalidConfig(
            f"a server needs Linux (memfd, epoll), and this is {sys.platform}; run it in a container or a virtual machine, on "
            "Windows also in WSL"
        )


def _require_working_directory() -> None:
    """InvalidConfig where the folder that the command was typed in has been deleted: paths mean nothing there."""
    try:
        Path.cwd()
    except OSError as error:
        raise InvalidConfig(f"the working directory cannot be used: {error.strerror}; change into one that exists") from None


#: Flags of torchserve's that people type as commands.
_FLAGS = ("start", "stop", "version", "help")
COMMANDS = {
    "demo": demo,
    "init": init,
    "check": check,
    "serve": serve,
    "archive": archive,
    "bench": bench,
    "tune": tune,
    "completion": complete,
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and "_ARGCOMPLETE" in os.environ:
        from .completion import answer

        answer(partial(serve_parser, ()))
    try:
        if arguments and arguments[0] in COMMANDS:
            _require_working_directory()
            return COMMANDS[arguments[0]](arguments[1:])
        if arguments in ([], ["help"], ["--help"], ["-h"]):
            print((__doc__ or "").strip() + f"\n\nEach takes --help. jitney {__version__}")
            return 0
        if arguments and not arguments[0].startswith("-"):
            print(f"jitney: {_unknown_command(arguments[0])}", file=sys.stderr)
            return 2
        _require_linux()
        return torchserve_cli.main(arguments)
    except (InvalidConfig, NothingAnswers) as error:
        print(f"jitney: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
