"""Every example of shell and Python in the pages is run here, or says who runs it, or why nobody does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from jitney.tests.fakes.examples import ExampleFailed, Runner
from jitney.tests.fakes.pages import PYTHON, ROOT, Block, blocks, pages

BLOCKS = {path: blocks(path) for path in pages()}
RUN = {path: found for path, found in BLOCKS.items() if any(block.mark in ("run", "serve") for block in found)}
#: Modules that a page's examples import, beside jitney's own; what is missing skips the page.
MODULES = ("onnxruntime", "requests", "torch", "tritonclient.grpc", "tritonclient.http")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", BLOCKS, ids=_name)
def test_every_example_is_run_or_says_why_not(page: Path) -> None:
    assert [block.place for block in BLOCKS[page] if block.is_example and not block.mark] == []
    assert [block.place for block in BLOCKS[page] if block.mark == "not run" and len(block.note) < 10] == []


@pytest.mark.parametrize("page", BLOCKS, ids=_name)
def test_who_is_said_to_run_an_example_is_there(page: Path) -> None:
    for block in BLOCKS[page]:
        if block.mark == "run by":
            runner = (ROOT / block.note).read_text()
            for line in filter(None, (line.partition("#")[0].strip() for line in block.text.splitlines())):
                target = re.match(r"make ([a-z-]+)", line)
                if target is not None:
                    assert re.search(rf"\bmake {target[1]}\b|^{target[1]}:", runner, re.MULTILINE), (block.place, line)
                elif block.language not in PYTHON:
                    assert any(word in runner for word in _words(line)), (block.place, line)


def _words(line: str) -> list[str]:
    """What of a command tells it from others."""
    words = [word.rpartition(".")[2] for word in re.findall(r"[\w./-]{4,}", line)]
    return [word.strip("-") for word in words if word not in ("jitney", "python", "docker", "model", "source")]


def _require(found: list[Block]) -> None:
    text = "".join(block.text for block in found if block.mark in ("run", "file"))
    for module in MODULES:
        if re.search(rf"^\s*(?:import|from) {re.escape(module)}\b", text, re.MULTILINE):
            pytest.importorskip(module)
    for tool in {"bash", "curl", *(["node"] if any(block.language == "js" for block in found) else [])}:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUN, ids=_name)
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    _require(RUN[page])
    runner = Runner(tmp_path)
    try:
        for block in RUN[page]:
            runner.follow(block)
    finally:
        runner.close()


# -- the tests' own tools --------------------------------------------------------------------------------------------------

PAGE = """# A page

<!-- run -->

    echo one && echo "two 3.14"

<!-- answer -->

    one
    two …

* an item

    that is no code

<!-- not run: it needs a
     machine that is not there -->

```bash
curl http://127.0.0.1:8080
```

```bash
echo unmarked
```

    a diagram ──▶ of boxes
"""


def test_a_page_is_read_with_its_marks(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    found = blocks(tmp_path / "page.md")
    assert [(block.language, block.mark) for block in found] == [
        ("", "run"), ("", "answer"), ("bash", "not run"), ("bash", ""), ("", ""),
    ]  # fmt: skip
    assert found[2].note == "it needs a machine that is not there"
    assert [block.is_example for block in found] == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<!-- run -->\n\n    false\n", "ended with status 1"),
        ("<!-- run -->\n\n    echo one\n\n<!-- answer -->\n\n    two\n", "'two' is not printed"),
        ("<!-- run -->\n\n    printf 'b\\na\\n'\n\n<!-- answer -->\n\n    a\n    b\n", "'b' is not printed"),
    ],
)
def test_an_example_that_does_not_hold_is_found(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "work").mkdir()
    runner = Runner(tmp_path / "work")
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ExampleFailed, match=reason):
        for block in blocks(page):
            runner.follow(block)
    runner.close()
