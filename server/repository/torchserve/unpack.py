"""Unpacking archives from untrusted sources: every entry is judged before the first byte is written.

An archive is read twice. The first pass lists its entries and refuses the archive for the first one that could leave the
folder, hide another or fill the disk; the second writes plain files into a new folder, counts what really comes out, and
takes everything back when that is more than was declared or anything fails. Links and devices are never created.
"""

from __future__ import annotations

import errno
import gzip
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ....core.errors import InvalidArchive
from .archive_entries import DEFAULT_LIMITS, Entry, Limits, check, check_ratio, entry_parts, too_large, too_many

Progress = Callable[[int, int], None]
"""Called as progress(bytes written, bytes in all) while a file is being written."""

CHUNK = 1 << 20
#: Longest tar header record (a PAX header or a GNU long name) that is read into memory.
MAX_TAR_RECORD = 1 << 20
_END_OF_CENTRAL_DIRECTORY = b"PK\x05\x06"


def unpack_zip(path: Path, folder: Path, limits: Limits = DEFAULT_LIMITS, progress: Progress | None = None) -> None:
    """Unpacks a zip archive (stored or deflated entries) into `folder`, which must not exist. Raises InvalidArchive."""
    with _readable(path), path.open("rb") as file:
        _check_directory_size(path, file, limits)
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            packed = sum(info.compress_size for info in infos)
            if packed > path.stat().st_size:
                raise InvalidArchive(f"{path.name}: its entries overlap", "unsafe")
            entries = [_zip_entry(path, info) for info in infos]
            check(path, entries, path.stat().st_size, limits)
            _refuse_unless_room(path, folder, sum(entry.size for entry in entries))
            with _whole_or_nothing(folder):
                writer = _Writer(path, folder, sum(entry.size for entry in entries), progress)
                for info, entry in zip(infos, entries, strict=True):
                    if entry.is_directory:
                        writer.directory(entry)
                        continue
                    with archive.open(info) as source:
                        writer.file(entry, source)


def unpack_tar_gz(path: Path, folder: Path, limits: Limits = DEFAULT_LIMITS, progress: Progress | None = None) -> None:
    """Unpacks a gzipped tar archive into `folder`, which must not exist; the first component of every name is dropped, as
    TorchServe does (a name of one component is kept). Raises InvalidArchive."""
    with _readable(path):
        entries = [entry for _, entry, _ in _tar_entries(path, limits)]
        check(path, entries, path.stat().st_size, limits)
        total = sum(entry.size for entry in entries)
        _refuse_unless_room(path, folder, total)
        with _whole_or_nothing(folder):
            writer = _Writer(path, folder, total, progress)
            for archive, entry, info in _tar_entries(path, limits):
                if entry.is_directory:
                    writer.directory(entry)
                elif (source := archive.extractfile(info)) is not None:
                    writer.file(entry, source)


def _zip_entry(path: Path, info: zipfile.ZipInfo) -> Entry:
    name = info.orig_filename  # zipfile cuts `filename` at a NUL
    parts = entry_parts(path.name, name)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if kind == stat.S_IFLNK else "a device, pipe or socket"
        raise InvalidArchive(f"{path.name}: entry {name!r} is {what}", "unsafe", name)
    if info.flag_bits & 0x1:
        raise InvalidArchive(f"{path.name}: entry {name!r} is encrypted", "damaged", name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidArchive(f"{path.name}: entry {name!r} is neither stored nor deflated", "damaged", name)
    return Entry(name, parts, 0 if name.endswith("/") else info.file_size, name.endswith("/"))


def _check_directory_size(path: Path, file: IO[bytes], limits: Limits) -> None:
    """Refuses a million entries before the list of them is read into memory: 46 bytes each, and their names."""
    size = path.stat().st_size
    file.seek(max(0, size - 65_557))
    tail = file.read()
    at = tail.rfind(_END_OF_CENTRAL_DIRECTORY)
    if at >= 0 and len(tail) >= at + 16:
        entries, directory_bytes = struct.unpack_from("<HI", tail, at + 10)
        if entries == 0xFFFF or directory_bytes == 0xFFFFFFFF:
            zip64 = tail.rfind(b"PK\x06\x06", 0, at)
            if zip64 >= 0 and len(tail) >= zip64 + 48:
                entries, directory_bytes = struct.unpack_from("<QQ", tail, zip64 + 32)
        if entries > limits.max_entries or directory_bytes > limits.max_entries * 512:
            raise too_many(path, limits, f"{entries} entries")
    file.seek(0)


def _tar_entries(path: Path, limits: Limits) -> Iterator[tuple[tarfile.TarFile, Entry, tarfile.TarInfo]]:
    """Reads the archive from its beginning; each entry's data can be read until the next one is asked for."""
    packed = path.stat().st_size
    with gzip.open(path) as unzipped:
        source = _Metered(path, unzipped, packed, limits)
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:", errorlevel=2) as archive:
            count = 0
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
                count += 1
                if count > limits.max_entries:
                    raise too_many(path, limits, "more")
                entry = _tar_entry(path, info)
                if entry is not None:
                    yield archive, entry, info
        source.drain()


def _tar_entry(path: Path, info: tarfile.TarInfo) -> Entry | None:
    """None for the top folder itself."""
    entry_parts(path.name, info.name)
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE):
        what = "a link" if info.issym() or info.islnk() else "no plain file or folder"
        raise InvalidArchive(f"{path.name}: entry {info.name!r} is {what}", "unsafe", info.name)
    if info.sparse is not None:
        raise InvalidArchive(f"{path.name}: entry {info.name!r} is a sparse file", "unsafe", info.name)
    first, slash, rest = info.name.partition("/")
    parts = entry_parts(path.name, rest if slash else first)
    if not parts or (info.isdir() and not slash):
        return None
    return Entry(info.name, parts, 0 if info.isdir() else info.size, info.isdir())


class _Metered:
    """What gzip unpacks, as a file that refuses to become larger than allowed. Only tarfile reads it, forwards."""

    def __init__(self, path: Path, source: gzip.GzipFile, packed: int, limits: Limits) -> None:
        self._path, self._source, self._packed, self._limits = path, source, packed, limits
        overhead = limits.max_entries * 1024  # headers and padding are no content
        self._most = limits.max_bytes + overhead

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_TAR_RECORD:
            raise InvalidArchive(f"{self._path.name}: a header of {size} bytes", "too_large")
        data = self._source.read(size)
        self._meter()
        return data

    def seek(self, position: int) -> int:
        while (behind := position - self._source.tell()) > 0:
            if not self._source.read(min(behind, CHUNK)):
                break
            self._meter()
        return self._source.seek(position)

    def tell(self) -> int:
        return self._source.tell()

    def drain(self) -> None:
        """Reads what follows the tar archive's end mark, up to gzip's checksum."""
        while self._source.read(CHUNK):
            self._meter()

    def _meter(self) -> None:
        unpacked = self._source.tell()
        if unpacked > self._most:
            raise too_large(self._path, self._limits)
        check_ratio(self._path, unpacked, self._packed, self._limits)


def _refuse_unless_room(path: Path, folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if total > free:
        raise InvalidArchive(f"{path.name}: needs {total} bytes, '{folder.parent}' has {free} left", "too_large")


class _Writer:
    """Writes entries below `folder` and counts; more bytes than an entry declared end it."""

    def __init__(self, path: Path, folder: Path, total: int, progress: Progress | None) -> None:
        self._path, self._folder, self._total, self._progress = path, folder, total, progress
        self._written = 0

    def directory(self, entry: Entry) -> None:
        self._folder.joinpath(*entry.parts).mkdir(parents=True, exist_ok=True)

    def file(self, entry: Entry, source: IO[bytes]) -> None:
        target = self._folder.joinpath(*entry.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with target.open("xb") as out:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > entry.size:
                    raise InvalidArchive(
                        f"{self._path.name}: entry {entry.name!r} is larger than declared", "too_large", entry.name
                    )
                out.write(chunk)
                self._written += len(chunk)
                if self._progress is not None:
                    self._progress(self._written, self._total)
        if size < entry.size:
            raise InvalidArchive(f"{self._path.name}: entry {entry.name!r} ends early", "damaged", entry.name)


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the standard library raises for damaged archives into InvalidArchive."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error, gzip.BadGzipFile) as error:
        raise InvalidArchive(f"{path.name}: damaged: {error}") from None
    except (NotImplementedError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArchive(f"{path.name}: damaged: {error}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is what reading before the file's beginning gives
            raise
        raise InvalidArchive(f"{path.name}: damaged: an entry lies outside of the file") from None
