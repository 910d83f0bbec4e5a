"""The generated parts of docs/: tables of what the code has, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a `|` in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """A page that the code names by its path is a link in a page."""
    linked = re.sub(r"\bdocs/([\w-]+\.md)\b", r"[\1](\1)", text)
    return linked.replace("|", "\\|").replace("\n", " ").strip()


def code(text: str) -> str:
    """Inline code, "" for nothing."""
    return f"`{text}`" if text else ""
