"""The table at the end, and whether it is good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .ledger import Ledger, Window

COLUMNS = ("sent", "right", "refused", "cut", "wrong", "unanswered")


def judge(window: Window, clients: set[str], limit: float) -> str:
    """What is not as it has to be; "" where everything is."""
    counts, recovery = window.counts(), window.recovery(clients)
    found = [f"{counts[kind]} {kind}" for kind in ("wrong", "unanswered") if counts[kind]]
    if window.problem:
        found.append(window.problem)
    if recovery is None:
        found.append("not all clients were right again")
    elif recovery > limit:
        found.append(f"recovery in {recovery:.1f} s")
    return "; ".join(found)


def table(ledger: Ledger, limit: float) -> tuple[list[str], bool]:
    """Its lines, and whether nothing is wrong, unanswered or late."""
    head = f"{'fault':38}" + "".join(f"{name:>11}" for name in COLUMNS) + f"{'gap s':>8}{'recovery s':>12}"
    lines, good = [head, "-" * len(head)], True
    for window in ledger.windows:
        counts, recovery = window.counts(), window.recovery(ledger.background)
        figures = [len(window.answers), *(counts[kind] for kind in COLUMNS[1:])]
        said = "never" if recovery is None else f"{recovery:.2f}"
        line = (
            f"{window.fault:38}" + "".join(f"{figure:>11}" for figure in figures) + f"{window.longest_gap():>8.2f}{said:>12}"
        )
        problem = judge(window, ledger.background, limit)
        good = good and not problem
        lines.append(line + (f"  !! {problem}" if problem else ""))
    return lines, good


def examples(windows: Sequence[Window], each: int = 3) -> list[str]:
    """Some of what was not right, the worst first, each text once a window."""
    lines = []
    for window in windows:
        for kind in ("wrong", "unanswered", "cut", "refused"):
            texts = Counter(f"{a.client}: {a.text}" for a in window.answers if a.kind == kind)
            lines += [f"  {window.fault}: {kind} {count} x {text[:300]}" for text, count in texts.most_common(each)]
    return lines
