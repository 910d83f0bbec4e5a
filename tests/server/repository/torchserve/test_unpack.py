from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidArchive
from jitney.server.repository.torchserve.archive_entries import Limits
from jitney.server.repository.torchserve.unpack import unpack_tar_gz, unpack_zip

MIB = 1 << 20


@dataclass
class Raw:
    """A zip entry as its bytes say, true or not."""

    name: bytes
    data: bytes = b""
    size: int | None = None
    method: int = 0
    mode: int = 0
    flags: int = 0

    def header(self, at: int) -> tuple[bytes, bytes]:
        size = len(self.data) if self.size is None else self.size
        crc = zlib.crc32(self.data) if self.method == 0 else 0
        common = struct.pack(
            "<HHHHHIIIHH", 20, self.flags, self.method, 0, 0x21, crc, len(self.data), min(size, 2**32 - 1), len(self.name), 0
        )
        local = b"PK\x03\x04" + common + self.name + self.data
        central = (
            b"PK\x01\x02"
            + struct.pack("<H", 0x314)
            + common
            + struct.pack("<HHHII", 0, 0, 0, self.mode << 16, at)
            + self.name
        )
        return local, central


def raw_zip(path: Path, *entries: Raw, count: int | None = None) -> Path:
    body, directory = bytearray(), bytearray()
    for entry in entries:
        local, central = entry.header(len(body))
        body += local
        directory += central
    number = min(len(entries) if count is None else count, 0xFFFE)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, number, number, len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path


def tar_gz(path: Path, *entries: Any) -> Path:
    """Entries are (name, data or None) or TarInfo objects."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry, io.BytesIO(b"x" * entry.size))
                continue
            name, data = entry
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(unpack: Callable[..., Any], path: Path, kind: str, limits: Limits | None = None) -> InvalidArchive:
    """Unpacks, expects the refusal, and that the disk is as it was."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InvalidArchive) as error:
        unpack(path, path.parent / "into", *([limits] if limits else []))
    assert error.value.kind == kind, str(error.value)
    assert sorted(path.parent.rglob("*")) == before
    return error.value


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_unpacks_and_reports_progress(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w", method) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        archive.writestr("empty/", "")
        archive.writestr("weights.pt", os.urandom(2 * MIB))
    seen = []
    unpack_zip(tmp_path / "a.mar", tmp_path / "into", progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "into").keys() == {"MAR-INF/MANIFEST.json", "weights.pt"}
    assert (tmp_path / "into" / "empty").is_dir()
    assert seen[-1] == (2 * MIB + 2, 2 * MIB + 2) and len(seen) >= 3
    assert stat.S_IMODE((tmp_path / "into").stat().st_mode) == 0o700


@pytest.mark.parametrize("prefix", ["", "./", "model/"])
def test_a_tar_loses_its_first_component(tmp_path: Path, prefix: str) -> None:
    path = tar_gz(tmp_path / "m.tar.gz", (prefix + "a.py", b"1"), (prefix + "MAR-INF/MANIFEST.json", b"{}"))
    unpack_tar_gz(path, tmp_path / "into")
    inner = {"a.py": b"1", "MAR-INF/MANIFEST.json": b"{}"}
    assert contents(tmp_path / "into") == (inner if prefix else {"a.py": b"1", "MANIFEST.json": b"{}"})


def test_a_tar_with_folders_unpacks(tmp_path: Path) -> None:
    path = tar_gz(
        tmp_path / "m.tar.gz", ("m", None), ("m/code", None), ("m/code/a.py", b"1" * 3000), ("m/" + "n" * 120, b"2")
    )
    unpack_tar_gz(path, tmp_path / "into")
    assert contents(tmp_path / "into") == {"code/a.py": b"1" * 3000, "n" * 120: b"2"}


HOSTILE_NAMES = [
    "../evil",
    "a/../../evil",
    "a/..",
    "/etc/evil",
    "//evil",
    "C:\\evil",
    "C:evil",
    "..\\evil",
    "a\x00.txt",
    "a\nb",
    "\x7f",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    path = raw_zip(tmp_path / "a.mar", Raw(b"good.py", b"1"), Raw(name.encode(), b"2"))
    error = refused(unpack_zip, path, "unsafe")
    assert error.entry == name and "a.mar" in str(error)
    if "\0" not in name:
        path = tar_gz(tmp_path / "b.tar.gz", ("m/good.py", b"1"), (name, b"2"))
        refused(unpack_tar_gz, path, "unsafe")


def test_a_tar_cannot_hide_a_name_behind_its_first_component(tmp_path: Path) -> None:
    for number, name in enumerate(["x//etc/evil", "x/../evil", "../evil", "x/C:evil"]):
        refused(unpack_tar_gz, tar_gz(tmp_path / f"{number}.tar.gz", (name, b"")), "unsafe") if number else None
    unpack_tar_gz(tar_gz(tmp_path / "ok.tar.gz", ("x/a", b"1")), tmp_path / "into")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_a_zip_with_a_link_or_device_is_refused(tmp_path: Path, kind: int) -> None:
    path = raw_zip(tmp_path / "a.mar", Raw(b"good.py", b"1"), Raw(b"passwd", b"/etc/passwd", mode=kind | 0o777))
    refused(unpack_zip, path, "unsafe")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_a_tar_with_a_link_or_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("m/passwd")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(unpack_tar_gz, tar_gz(tmp_path / "a.tar.gz", ("m/good.py", b"1"), info), "unsafe")


def test_a_sparse_tar_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("m/sparse")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10 * 2**30), "GNU.sparse.numblocks": "1"}
    refused(unpack_tar_gz, tar_gz(tmp_path / "a.tar.gz", info), "unsafe")


@pytest.mark.parametrize("pair", [("a.py", "a.py"), ("a.py", "A.PY"), ("a", "a/b"), ("d/a.py", "D//./A.py"), ("ß", "SS")])
def test_two_entries_for_one_place_are_refused(tmp_path: Path, pair: tuple[str, str]) -> None:
    path = raw_zip(tmp_path / "a.mar", *(Raw(name.encode(), b"1", flags=0x800) for name in pair))
    refused(unpack_zip, path, "unsafe")
    path = tar_gz(tmp_path / "b.tar.gz", *(("m/" + name, b"1") for name in pair))
    refused(unpack_tar_gz, path, "unsafe")


def bomb() -> bytes:
    """Raw deflate data of 10 GiB of zeros."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = press.compress(bytes(16 * MIB)) + press.flush(zlib.Z_FULL_FLUSH)
    return block * (10 * 2**30 // (16 * MIB)) + press.flush()


def test_a_bomb_of_10_gb_is_refused(tmp_path: Path) -> None:
    data = bomb()
    honest = raw_zip(tmp_path / "a.mar", Raw(b"zeros", data, size=2**32 - 2, method=8))
    assert "max_archive_ratio" in str(refused(unpack_zip, honest, "too_large"))


@pytest.mark.parametrize("declared", [1, 100 * MIB])
def test_a_bomb_that_understates_itself_is_refused(tmp_path: Path, declared: int) -> None:
    path = raw_zip(tmp_path / "a.mar", Raw(b"a", b"1"), Raw(b"zeros", bomb(), size=declared, method=8))
    refused(unpack_zip, path, "damaged")


def test_a_tar_bomb_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("m/zeros")
    info.size = 8 * 2**30 - 1
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf()) + gzip.compress(bytes(16 * MIB)) * 512)
    assert "max_archive_ratio" in str(refused(unpack_tar_gz, tmp_path / "a.tar.gz", "too_large"))


def test_a_tar_header_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**31
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf()) + gzip.compress(bytes(16 * MIB)) * 64)
    refused(unpack_tar_gz, tmp_path / "a.tar.gz", "too_large")


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "a.mar", Raw(b"a", b"1" * 60), Raw(b"b", b"1" * 60))
    refused(unpack_zip, path, "too_large", Limits(max_bytes=100))
    unpack_zip(path, tmp_path / "ok", Limits(max_bytes=120))
    path = tar_gz(tmp_path / "b.tar.gz", ("m/a", b"1" * 60), ("m/b", b"1" * 60))
    refused(unpack_tar_gz, path, "too_large", Limits(max_bytes=100))


def test_more_than_the_disk_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw_zip(tmp_path / "a.mar", Raw(b"a", b"1" * 60))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: os.terminal_size((0, 0)) and type("Usage", (), {"free": 59}))
    assert "has 59 left" in str(refused(unpack_zip, path, "too_large"))


def test_a_million_entries_are_refused_without_being_listed(tmp_path: Path) -> None:
    _, central = Raw(b"x").header(0)
    directory = central * 1_000_000
    size = struct.pack("<QQQQ", 1_000_000, 1_000_000, len(directory), 0)
    zip64 = b"PK\x06\x06" + struct.pack("<QHHII", 44, 45, 45, 0, 0) + size
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(directory), 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "a.mar").write_bytes(directory + zip64 + locator + end)
    assert "1000000 entries, expected at most 100000" in str(refused(unpack_zip, tmp_path / "a.mar", "too_large"))


def test_too_many_entries_are_refused_whatever_is_declared(tmp_path: Path) -> None:
    entries = [Raw(b"n%d" % number) for number in range(50)]
    for count in (None, 1):
        refused(unpack_zip, raw_zip(tmp_path / "a.mar", *entries, count=count), "too_large", Limits(max_entries=20))
    path = tar_gz(tmp_path / "b.tar.gz", *((f"m/{number}", b"") for number in range(50)))
    refused(unpack_tar_gz, path, "too_large", Limits(max_entries=20))


def test_entries_that_share_their_data_are_refused(tmp_path: Path) -> None:
    data = os.urandom(1000)
    body, central = Raw(b"a", data).header(0)
    other = Raw(b"b", data).header(0)[1]
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(central + other), len(body), 0)
    (tmp_path / "a.mar").write_bytes(body + central + other + end)
    refused(unpack_zip, tmp_path / "a.mar", "unsafe")


def test_an_entry_before_the_beginning_of_the_file_is_refused(tmp_path: Path) -> None:
    """The first bytes of an archive are missing: the directory at its end then points to before its beginning."""
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as archive:
        archive.writestr("a.py", b"")
    whole = (tmp_path / "a.mar").read_bytes()
    for missing in range(1, 40):
        (tmp_path / "a.mar").write_bytes(whole[missing:])
        refused(unpack_zip, tmp_path / "a.mar", "damaged")


@pytest.mark.parametrize("entry", [Raw(b"a", b"1", flags=1), Raw(b"a", b"1", method=14), Raw(b"a", b"1", size=5)])
def test_encrypted_odd_and_short_entries_are_refused(tmp_path: Path, entry: Raw) -> None:
    refused(unpack_zip, raw_zip(tmp_path / "a.mar", Raw(b"good.py", b"1"), entry), "damaged")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = raw_zip(tmp_path / "a.mar", Raw(b"a", b"1" * 100)).read_bytes()
    (tmp_path / "a.mar").write_bytes(whole.replace(b"1" * 100, b"2" * 100))
    refused(unpack_zip, tmp_path / "a.mar", "damaged")
    (tmp_path / "a.mar").write_bytes(whole[:60])
    refused(unpack_zip, tmp_path / "a.mar", "damaged")
    whole = tar_gz(tmp_path / "b.tar.gz", ("m/a", os.urandom(5000))).read_bytes()
    for damaged in (whole[:3000], whole[:20], whole[:-8], b"\x1f\x8bjunk", gzip.compress(b"no tar" * 500)):
        (tmp_path / "b.tar.gz").write_bytes(damaged)
        refused(unpack_tar_gz, tmp_path / "b.tar.gz", "damaged")


@given(st.binary(max_size=400))
def test_noise_is_refused_not_raised(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "a").write_bytes(b"\x1f\x8b" + noise)
    for unpack in (unpack_zip, unpack_tar_gz):
        with pytest.raises(InvalidArchive):
            unpack(folder / "a", folder / "into")
        assert not (folder / "into").exists()
