"""Archives with a few bytes changed: unpacked inside of their folder, or refused with nothing left behind."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidArchive
from jitney.server.repository.torchserve.archive_entries import Limits
from jitney.server.repository.torchserve.unpack import unpack_tar_gz, unpack_zip

from .mutations import mutated

LIMITS = Limits(max_bytes=1 << 20, max_entries=50)
NAMES = st.sampled_from(
    ("a.py", "dir/b.py", "MAR-INF/MANIFEST.json", "dir/", "a.py", "../up", "/abs", "c:/d", "x" * 300, "a/b/c", "é")
)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))) as archive:
        for name in draw(st.lists(NAMES, max_size=4, unique=True)):
            archive.writestr(name, draw(st.binary(max_size=30)))
    return out.getvalue()


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in draw(st.lists(NAMES, max_size=4, unique=True)):
            entry = tarfile.TarInfo(f"top/{name}")
            entry.type = draw(
                st.sampled_from((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
            )
            entry.linkname = "../../etc/passwd"
            data = draw(st.binary(max_size=30)) if entry.type == tarfile.REGTYPE else b""
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def check(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        archive, target = place / name, place / "in" / "here"
        archive.write_bytes(data)
        target.parent.mkdir()
        unpack = unpack_zip if name.endswith(".mar") else unpack_tar_gz
        try:
            unpack(archive, target, LIMITS)
        except InvalidArchive:
            assert not target.exists()
        assert sorted(path.name for path in place.iterdir()) == sorted((name, "in"))
        assert [path.name for path in target.parent.iterdir()] in ([], ["here"])
        found = list(target.rglob("*"))
        assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in found)
        assert sum(path.stat().st_size for path in found if path.is_file()) <= LIMITS.max_bytes


@given(mutated(zips(), most=6))
def test_a_zip(data: bytes) -> None:
    check(data, "m.mar")


@given(mutated(tars(), most=3))
def test_a_tar(data: bytes) -> None:
    check(gzip.compress(data, 1), "m.tar.gz")


@given(mutated(tars().map(lambda data: gzip.compress(data, 1))))
def test_a_damaged_gzip(data: bytes) -> None:
    check(data, "m.tar.gz")
