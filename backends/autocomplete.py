"""Asks a Python model to complete its own configuration: a short-lived process that the model repository starts.

    python -m jitney.backends.autocomplete VERSION_DIRECTORY [FILE]  <config.json  >completed.json

The config document comes in on standard input and goes out on standard output; what the model prints itself goes to standard
error. A model without `auto_complete_config` leaves the document as it is. An error is one text on standard error and status 1.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from .extras import explain
from .python import load_module


def complete(document: dict[str, Any], version_directory: Path, filename: str = "model.py") -> dict[str, Any]:
    """The configuration after the model's static method `auto_complete_config` has seen it."""
    module = load_module(version_directory, filename)
    method = getattr(module.TritonPythonModel, "auto_complete_config", None)
    if method is None:
        return document
    from triton_python_backend_utils import ModelConfig  # type: ignore[import-not-found,unused-ignore]

    completed = method(ModelConfig(document))
    if not isinstance(completed, ModelConfig):
        raise TypeError("auto_complete_config must return the ModelConfig object that it was given")
    result: dict[str, Any] = completed.as_dict()
    return result


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m jitney.backends.autocomplete VERSION_DIRECTORY [FILE]", file=sys.stderr)  # noqa: T201
        return 2
    document = json.load(sys.stdin)
    sys.argv = [""]  # as in a worker
    try:
        with contextlib.redirect_stdout(sys.stderr):
            completed = json.dumps(complete(document, Path(arguments[0]).resolve(), *arguments[1:]))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the model's own code may raise anything
        print(explain(error), file=sys.stderr)  # noqa: T201
        return 1
    sys.stdout.write(completed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
