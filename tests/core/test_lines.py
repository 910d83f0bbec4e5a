from pathlib import Path

import pytest

from jitney.core.lines import read_lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb", ["a", "b"]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\n\n", ["a", ""]),
        ("a\x85b\u2028c\x0c\nd".encode(), ["a\x85b\u2028c\x0c", "d"]),
    ],
)
def test_lines_end_where_an_editor_ends_them(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    (tmp_path / "words.txt").write_bytes(data)
    assert read_lines(tmp_path / "words.txt") == lines
