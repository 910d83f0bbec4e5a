"""`jitney check PATH …`: what is wrong with model repositories and archives, one line for each finding, without serving them.

A PATH is a folder of models, one model's folder, a folder of archives, or an archive. Configurations are read as the server reads
them, Python files are parsed; nothing of a model is loaded or run unless --load says so, which starts a server on free ports.

    path:line: error: text      the model will not be served so
    path:line: warning: text    it will, but perhaps not as it is meant
    path:line: note: text       worth knowing

The status is 0 without an error, 1 with one, 2 where a PATH cannot be checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import InvalidConfig
from ...server.repository.torchserve.archive import MANIFEST
from ...server.repository.triton.layout import entries, is_model
from ...server.repository.triton.strays import holds_archives, is_archive
from .archive import check_archive
from .finding import Finding
from .load import load_archive, load_repository
from .repository import check_repositories


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="jitney check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="folder of models or archives, a model, an archive"
    )
    made.add_argument("--load", action="store_true", help="also load every model, in a server on free ports, and end it")
    made.add_argument("--config", type=Path, metavar="FILE", help="the config.properties that archives will be served with")
    made.add_argument("--backend-directory", type=Path, metavar="DIR", help="folder with the models' Python-based backends")
    made.add_argument("--json", action="store_true", help="print the findings as a JSON list")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    found: list[Finding] = []
    for path in options.paths:
        try:
            found += check(path, options.config, options.load, options.backend_directory)
        except (InvalidConfig, OSError) as error:
            print(f"jitney check: {error}", file=sys.stderr)
            return 2
    found = [_shown(each) for each in dict.fromkeys(found)]
    errors = sum(each.severity == "error" for each in found)
    if options.json:
        print(json.dumps([each.document() for each in found], indent=2, ensure_ascii=False))
    else:
        print("\n".join([*map(str, found), _summary(errors, found)]))
    return 1 if errors else 0


def _summary(errors: int, found: Sequence[Finding]) -> str:
    warnings = sum(each.severity == "warning" for each in found)
    counts = ((errors, "error"), (warnings, "warning"))
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return " and ".join(words) or "no errors"


def _shown(each: Finding) -> Finding:
    """With a path from the working folder on, where it lies in there."""
    path = Path(each.path)
    if not each.path or not path.is_relative_to(Path.cwd()):
        return each
    return Finding(each.severity, each.text, str(path.relative_to(Path.cwd())), each.line, each.model)


def check(path: Path, config: Path | None = None, load: bool = False, backends: Path | None = None) -> list[Finding]:
    """What is found at `path`. InvalidConfig where that is nothing that can be checked."""
    if path.is_file():
        return _archives([path], config, load)
    if not path.is_dir():
        raise InvalidConfig(
            f"there is no '{path}'; expected a folder of models or archives, a model's folder, or an archive"
        )
    if (path / MANIFEST).is_file():
        return _archives([path], config, load)
    inner = [each for each in entries(path.absolute()) if each.is_dir()]
    if is_model(path) and not any(map(is_model, inner)):
        return _repository(path.absolute().parent, [path.absolute().name], load, backends)
    found = _archives([each for each in entries(path) if is_archive(each)], config, load) if holds_archives(path) else []
    if found and not any(map(is_model, inner)):
        return found
    return found + (_repository(path, [], load, backends) if inner or not holds_archives(path) else [])


def _repository(folder: Path, only: Sequence[str], load: bool, backends: Path | None) -> list[Finding]:
    found = check_repositories([folder], only, backends)
    wrong = {each.model for each in found if each.severity == "error"}
    loaded = load_repository(folder, only, backends) if load else []
    return found + [each for each in loaded if each.model not in wrong or not each.model]


def _archives(paths: Sequence[Path], config: Path | None, load: bool) -> list[Finding]:
    found: list[Finding] = []
    for path in paths:
        if path.is_file() and not is_archive(path):
            raise InvalidConfig(f"'{path}' is no archive (.mar, .tar.gz); expected a folder of models, or an archive")
        one = check_archive(path, config)
        found += one
        if load and not any(each.severity == "error" for each in one):
            found += load_archive(path)
    return found
