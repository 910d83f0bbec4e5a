"""The project's pages as their tests read them: links, headings, and examples with what is said of how they are run.

A comment before an example of shell or Python says how it is kept true:

    <!-- run -->            a test runs it, in a folder that the page's examples share
    <!-- serve -->          likewise, in the background: a server, or several, that the examples after it ask
    <!-- answer -->         no example but what the one before prints: its lines, `…` for what differs from run to run
    <!-- file: PATH -->     a file that the page's other examples need, which the test writes
    <!-- run by: PATH -->   that test or script runs it, and has its lines
    <!-- not run: WHY -->   it is not run
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Words with which a line of shell begins, where a block says nothing of its language.
COMMANDS = (
    r"alias|apt-get|cat|cd|cp|curl|docker|docker/build_image\.sh|export|git|jitney|kubectl|make|mkdir|mv|nohup|pip|podman|pytest"
    r"|python3?|source|tar|torch-model-archiver|torchserve|tritonserver|unzip|wget"
)
SHELL, PYTHON = ("bash", "sh", "shell", "console"), ("python", "py", "pycon")
_MARK = re.compile(r"<!-- (run by|run|serve|answer|file|not run)(?:: (.*?))? -->\Z", re.DOTALL)
_FENCE = re.compile(r"^(```+)\s*([\w+-]*)[^\n]*\n(.*?)^\1\s*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IS_SHELL = re.compile(rf"^\$ |^(?:\w+=\S+ )*(?:\.venv/bin/)?(?:{COMMANDS})(?: |$)")


@dataclass(frozen=True)
class Block:
    """One block of code. `language` is "" where an indented block is no shell; `mark` and `note` are the comment before it."""

    path: Path
    line: int
    language: str
    text: str
    mark: str = ""
    note: str = ""

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path}:{self.line}"

    @property
    def is_example(self) -> bool:
        return self.language in (*SHELL, *PYTHON)


def pages() -> list[Path]:
    """All pages that people read, the generated site's and those at the top."""
    top = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG", "CODE_OF_CONDUCT")]
    return [*top, *site_pages()]


def site_pages() -> list[Path]:
    return [path for path in sorted((ROOT / "docs").rglob("*.md")) if "vendor" not in path.parts]


def blocks(path: Path) -> list[Block]:
    """The blocks of code of a page, fenced and indented, in their order."""
    lines, found, mark, note = path.read_text().splitlines(), list[Block](), "", ""
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("<!--"):
            end = next(number for number in range(at, len(lines)) if "-->" in lines[number])
            if line.strip() in ("<!-- setup", "<!-- setup serve"):
                kind = "serve" if "serve" in line else "run"
                found.append(Block(path, at + 1, "bash", "\n".join(lines[at + 1 : end]) + "\n", kind))
            match = _MARK.match(" ".join(text.strip() for text in lines[at : end + 1]))
            mark, note = (match[1], match[2] or "") if match else ("", "")
            at = end + 1
        elif (fence := re.match(r"```+", line)) is not None:
            end = next(number for number in range(at + 1, len(lines)) if lines[number].rstrip() == fence[0])
            found.append(Block(path, at + 1, line.strip("` "), "\n".join(lines[at + 1 : end]) + "\n", mark, note))
            mark, at = "", end + 1
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()) and not _in_list(lines, at):
            end = _end_of_indented(lines, at)
            inner = [text[4:] for text in lines[at:end]]
            language = "sh" if any(_IS_SHELL.match(text) for text in inner) else ""
            found.append(Block(path, at + 1, language, "\n".join(inner).rstrip() + "\n", mark, note))
            mark, at = "", end
        else:
            mark = mark if not line.strip() else ""
            at += 1
    return found


def _in_list(lines: list[str], at: int) -> bool:
    """Whether an indented line goes on with an item of a list."""
    before = next((text for text in reversed(lines[:at]) if text.strip() and not text.startswith("    ")), "")
    return bool(re.match(r" {0,3}(?:[*+-]|\d+\.) | {1,3}\S", before))


def _end_of_indented(lines: list[str], at: int) -> int:
    end = at
    while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
        end = at + 1 if lines[at].strip() else end
        at += 1
    return end


def prose(path: Path) -> str:
    """A page without its code and comments."""
    text = _COMMENT.sub("", _FENCE.sub("", path.read_text()))
    kept = [line for line in text.splitlines() if not line.startswith("    ")]
    return re.sub(r"`[^`\n]*`", "", "\n".join(kept))


def links(path: Path) -> Iterator[str]:
    """The targets of a page's links and pictures."""
    yield from (found[1] for found in re.finditer(r"\]\(([^()\s]+(?:\([^()]*\))?)\)", prose(path)))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings that both GitHub and the site give them."""
    text = _COMMENT.sub("", _FENCE.sub("", path.read_text()))
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings]
    return {_github(heading) for heading in plain} & {_site(heading) for heading in plain}


def _github(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _site(heading: str) -> str:
    """As Python-Markdown's toc does."""
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())
