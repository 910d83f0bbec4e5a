"""The command `torchserve`, which is `jitney` here."""

from __future__ import annotations

import sys
from pathlib import Path

from jitney.server.cli import torchserve as torchserve_cli
from jitney.server.settings import properties

from .arg_parser import ArgParser
from .version import __version__

__all__ = ["TS_NAMESPACE", "ArgParser", "__version__", "load_properties", "start"]

TS_NAMESPACE = "org.pytorch.serve.ModelServer"


def start() -> None:
    """Does what the command line says, as `jitney` does; a failure ends the process with its status."""
    status = torchserve_cli.main(sys.argv[1:])
    if status:
        sys.exit(status)


def load_properties(file_path: str) -> dict[str, str]:
    """The keys of a config.properties."""
    return properties.decode(Path(file_path).read_bytes(), file_path)


if __name__ == "__main__":
    start()
