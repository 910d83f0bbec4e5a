"""The lines of a text file that users bring: labels, vocabularies."""

from __future__ import annotations

from pathlib import Path


def read_lines(path: Path) -> list[str]:
    r"""The lines of a UTF-8 file, the n-th for the n-th thing that it names. OSError, UnicodeDecodeError.

    They end with \n, \r\n or \r. Other characters at which `str.splitlines` ends lines too (\x85, \u2028) are words of some
    vocabularies. A byte order mark, with which some editors begin a file, is no part of the first line.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return lines if lines[-1] else lines[:-1]
