"""Writes the generated parts of docs/ anew: `python -m jitney.tools.dev.build_reference [--check]`.

A part stands in its page between two comments, `<!-- generated: NAME -->` and `<!-- end of NAME -->`, and nobody edits it there:
what it says stands in the code. With --check nothing is written, and the status is 1 where a page is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from .reference import commands, errors, metrics, model_config, routes, settings

DOCS = Path(__file__).resolve().parents[2] / "docs"

#: What writes each part.
PARTS: Mapping[str, Callable[[], str]] = {
    "settings": settings.settings,
    "settings without effect": settings.without_effect,
    "flags without effect": settings.flags_without_effect,
    "model configuration": model_config.model_config,
    "routes of the inference port": partial(routes.routes, "inference"),
    "routes of KServe v2": routes.kserve,
    "routes of the management port": partial(routes.routes, "management"),
    "routes of the metrics port": partial(routes.routes, "metrics"),
    "own metrics": metrics.own,
    "metrics of Triton": metrics.triton,
    "metrics of TorchServe": metrics.torchserve,
    "metrics of the process": metrics.process,
    "errors": errors.error_classes,
    "commands": commands.commands,
}
_PART = re.compile(r"<!-- generated: ([\w ]+) -->\n.*?<!-- end of \1 -->", re.DOTALL)


def renewed(page: str) -> str:
    """The text of a page with its parts as they have to be. KeyError for one that nothing writes."""
    return _PART.sub(
        lambda found: f"<!-- generated: {found[1]} -->\n\n{PARTS[found[1]]()}\n\n<!-- end of {found[1]} -->", page
    )


def stale() -> dict[Path, str]:
    """The pages that are not as they have to be, with what they should say."""
    pages = {path: path.read_text() for path in sorted(DOCS.rglob("*.md"))}
    return {path: new for path, text in pages.items() if (new := renewed(text)) != text}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="build_reference", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; the status is 1 where a page is stale")
    check = parser.parse_args(arguments).check
    found = stale()
    for path, text in found.items():
        print(f"{path.relative_to(DOCS.parent)} {'is stale: make reference' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
