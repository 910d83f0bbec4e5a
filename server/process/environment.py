"""Which Python runs a worker, and how it finds this package.

A Python model may name a virtual environment of its own (Triton's parameter `EXECUTION_ENV_PATH`). Its worker then runs that
environment's Python through `launch.py`, which makes this package importable and nothing else of the server's environment:
numpy has to be installed there (Triton asks for that too), and msgspec is lent by the server where the environment has none.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from ...core.errors import InvalidConfig

PARAMETER = "EXECUTION_ENV_PATH"
#: Variables that hold secrets of the server's: models' code has no business with them, and no front end needs them.
SECRETS = (
    "JITNEY_TOKEN",
    "JITNEY_KEYSTORE_PASS",
    "TS_KEYSTORE_PASS",
    "JITNEY_HTTP_RESTRICTED_API",
    "JITNEY_GRPC_RESTRICTED_PROTOCOL",
)
_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
_LAUNCHER = Path(__file__).with_name("launch.py")


def own_python(model: str, parameters: Mapping[str, str], directory: str) -> Path | None:
    """The Python of the environment that the model names, None where it names none.

    `directory` is the model's folder. InvalidConfig where there is no usable environment at that path.
    """
    named = parameters.get(PARAMETER, "").strip()
    if not named:
        return None
    path = Path(named.replace(_MODEL_DIRECTORY, directory))
    problem = f"model '{model}': parameter {PARAMETER} names '{path}'"
    if path.is_file():
        raise InvalidConfig(f"{problem}, which is a file: unpack the archive and name the environment's directory")
    if not path.is_absolute() or not path.is_dir():
        raise InvalidConfig(f"{problem}: expected the absolute path of a virtual environment's directory")
    python = path / "bin" / "python"
    if not python.exists():
        raise InvalidConfig(f"{problem}, which has no bin/python: expected a virtual environment")
    return python


def module_command(python: Path | None, module: str) -> list[str]:
    """The start of a command that runs a module of this package, in the server's Python where `python` is None.

    `-P` keeps the working directory out of the module path: a model's `queue.py` is no match for Python's.
    """
    if python is None:
        return [sys.executable, "-P", "-m", module]
    spec = importlib.util.find_spec("msgspec")
    lent = spec.origin if spec is not None and spec.origin else ""
    return [str(python), "-P", str(_LAUNCHER), lent, module]
