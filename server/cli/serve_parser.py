"""The flags of `jitney serve`, which have tritonserver's names and meaning."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from . import observing
from .grpc_flags import add_grpc
from .no_meaning import NO_MEANING


def switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError("expected true or false")
    return text.lower() in ("true", "1")


def port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got '{text}'")
    return int(text)


def serve_parser(no_meaning: Iterable[str] = NO_MEANING) -> argparse.ArgumentParser:
    """`no_meaning`: options that are taken, and change nothing."""
    parser = argparse.ArgumentParser(
        prog="jitney serve",
        description="Serve model repositories, TorchServe archives, or both. Options have tritonserver's names and meaning.",
    )
    _add_models(parser)
    _add_configuration(parser)
    _add_ports(parser)
    add_grpc(parser)
    observing.add_trace(parser)
    _add_limits(parser)
    observing.add_logging(parser, switch)
    parser.add_argument("--disable-token-auth", action="store_true", help="serve non-loopback addresses without tokens")
    for option in no_meaning:
        parser.add_argument(option, dest="no_meaning", action="append", nargs="?", const=option, help=argparse.SUPPRESS)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
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


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--disable-auto-complete-config", action="store_true", help="do not complete configurations from model files")
    add("--model-config-name", metavar="NAME", help="read configs/NAME.pbtxt instead of config.pbtxt")
    add("--backend-config", action="append", metavar="BACKEND,KEY=VALUE", help="e.g. onnxruntime,default-max-batch-size=8")
    add("--backend-directory", metavar="DIR", help="folder with Python-based backends: NAME/model.py for backend NAME")
    add("--response-cache-byte-size", type=int, metavar="BYTES", help="the same as --cache-config=local,size=BYTES")
    add("--cache-config", metavar="local,size=BYTES", help="size of the response cache")
    add("--id", dest="server_id", metavar="NAME", help="what GET /v2 calls the server (triton)")


def _add_ports(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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
