"""`ArgParser`: the flags of `torchserve` and of its workers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jitney.server.cli import torchserve as torchserve_cli

#: Where torchserve's parser keeps the flags that jitney keeps under their own names.
_NAMES = {"disable_token_auth": "token_auth", "enable_model_api": "model_mode"}


class ArgParser:
    @staticmethod
    def ts_parser() -> argparse.ArgumentParser:
        """The flags that `jitney --start` takes."""
        parser = torchserve_cli.parser()
        for action in parser._actions:
            action.dest = _NAMES.get(action.dest, action.dest)
        return parser

    @staticmethod
    def model_service_worker_args() -> argparse.ArgumentParser:
        """The flags of TorchServe's worker; jitney's workers are started otherwise."""
        parser = argparse.ArgumentParser(prog="model-server-worker", description="A worker of TorchServe")
        add = parser.add_argument
        add("--sock-type", required=True, choices=["unix", "tcp"], help="what the worker listens on")
        add("--sock-name", help="path of the socket, for unix")
        add("--host", help="address, for tcp")
        add("--port", help="port, for tcp")
        add("--metrics-config", help="metrics.yaml")
        add("--async", dest="async_comm", action="store_true", help="handle requests side by side")
        return parser

    @staticmethod
    def extract_args(args: Sequence[str] | None = None) -> argparse.Namespace:
        return ArgParser.ts_parser().parse_args(args or None)
