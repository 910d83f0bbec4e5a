"""`jitney init NAME --backend BACKEND`: writes a small model that can be served at once, and says how to serve and ask it.

    jitney init mine --backend onnx           models/mine with config.pbtxt and 1/model.onnx
    jitney init mine --backend handler        mine with handler.py and model-config.yaml, the sources of a TorchServe archive

Nothing that is there is overwritten. The status is 1 where the model cannot be written, with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InvalidConfig
from ..core.names import safe_name
from .archive import NAME as ARCHIVE_NAME
from .templates import ANSWER, ROW, TEMPLATES, Template

REQUEST = json.dumps({"x": [ROW]})
SCRIPT_SECONDS = 300


class CannotWrite(ValueError):
    """The model cannot be written; the text says why."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="jitney init", description="Writes a small model to begin with, and says how to serve and ask it."
    )
    made.add_argument("name", metavar="NAME", help="the model's name")
    made.add_argument(
        "--backend", required=True, choices=tuple(TEMPLATES), help="what runs it; handler: a TorchServe archive"
    )
    made.add_argument(
        "--into", type=Path, metavar="DIR", help="folder to write it into (models; with handler the working folder)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    into = options.into or Path("." if options.backend == "handler" else "models")
    try:
        folder = write(options.name, options.backend, into)
    except (CannotWrite, InvalidConfig, OSError) as error:
        print(f"jitney init: {error}", file=sys.stderr)
        return 1
    print("\n".join(said(folder, options.name, options.backend)))
    return 0


def write(name: str, backend: str, into: Path) -> Path:
    """Writes the model's folder and returns it; where that fails nothing is left behind."""
    template, folder = TEMPLATES[backend], into / safe_name(name, InvalidConfig)
    if backend == "handler" and not ARCHIVE_NAME.fullmatch(name):
        raise CannotWrite(f"'{name}' cannot be an archive's name: expected letters, digits, '_', '.' and '-'")
    if folder.exists():
        raise CannotWrite(f"'{folder}' exists already; nothing was written")
    if template.script and importlib.util.find_spec(template.package) is None:
        raise CannotWrite(f"{template.package} writes the model, and is missing: {_installing(template)}")
    folder.mkdir(parents=True)
    try:
        for path, content in template.files.items():
            target = folder / path
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content.replace("NAME", name).encode() if isinstance(content, str) else content)
        if template.script:
            _run(folder, template.script)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _run(folder: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=False
    )
    if done.returncode:
        raise CannotWrite(f"{script} failed with status {done.returncode}: {done.stderr.strip()[-1000:]}")


def _installing(template: Template) -> str:
    return f"pip install 'jitney[{template.extra}]'"


def said(folder: Path, name: str, backend: str) -> list[str]:
    """What is printed: what was written, the commands that serve and ask it, and what to replace."""
    template = TEMPLATES[backend]
    lines = [f"{folder}:", *(f"  {path.relative_to(folder)}" for path in sorted(folder.rglob("*")) if path.is_file())]
    if importlib.util.find_spec(template.package) is None:
        lines += ["", f"It needs {template.package}:  {_installing(template)}"]
    lines += [
        "",
        "Serve it, and in another terminal ask it:",
        "",
        *(f"  {line}" for line in commands(folder, name, backend)),
    ]
    return [*lines, "", f"The answer is [{ANSWER}]. Yours to replace: {template.yours}."]


def commands(folder: Path, name: str, backend: str) -> list[str]:
    """The commands that pack, serve and ask it."""
    ask = f"curl http://localhost:8080/predictions/{name} -H 'Content-Type: application/json' -d '{REQUEST}'"
    if backend != "handler":
        return [f"jitney serve {shlex.quote(str(folder.parent))}", ask]
    handler, config = (shlex.quote(str(folder / file)) for file in ("handler.py", "model-config.yaml"))
    flags = f"--handler {handler} --config-file {config} --export-path model_store"
    pack = f"jitney archive --model-name {name} --version 1.0 {flags}"
    return [pack, "jitney serve model_store", ask]
