"""What is allowed of an archive's entries, judged by what they declare: names, sizes, and what they are together. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....core.errors import InvalidArchive

#: Below this size a high compression ratio is no danger (a folder of zeros, a log).
RATIO_MATTERS_FROM = 256 * 1024 * 1024
MAX_DEPTH = 32
MAX_COMPONENT = 255


@dataclass(frozen=True)
class Limits:
    """`max_ratio`: unpacked bytes for each packed one, once an archive unpacks to more than 256 MiB."""

    max_bytes: int = 128 * 2**30
    max_entries: int = 100_000
    max_ratio: int = 100


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Entry:
    name: str
    parts: tuple[str, ...]
    size: int
    is_directory: bool


def entry_parts(archive: str, name: str) -> tuple[str, ...]:
    """The components of an entry's name, which may only lead downwards; InvalidArchive says what is wrong with it."""

    def refuse(reason: str) -> InvalidArchive:
        return InvalidArchive(f"{archive}: entry {name[:200]!r} {reason}", "unsafe", name)

    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise refuse("has a NUL or another control character in its name")
    if "\\" in name:
        raise refuse("has a backslash in its name")
    if name.startswith("/"):
        raise refuse("has an absolute name")
    if len(name) > 1 and name[1] == ":" and name[0].isalpha():
        raise refuse("begins with a drive letter")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise refuse("leads out of the folder with '..'")
    if len(parts) > MAX_DEPTH:
        raise refuse(f"is nested more than {MAX_DEPTH} folders deep")
    if any(len(part.encode("utf-8", "surrogatepass")) > MAX_COMPONENT for part in parts):
        raise refuse(f"has a component of more than {MAX_COMPONENT} bytes")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise refuse("has a name that is not UTF-8") from None
    return parts


def check(path: Path, entries: list[Entry], packed: int, limits: Limits) -> None:
    """Refuses what the entries together declare: too many, too large, too dense, or two under one name."""
    if len(entries) > limits.max_entries:
        raise too_many(path, limits, f"{len(entries)} entries")
    total = sum(entry.size for entry in entries)
    if total > limits.max_bytes:
        raise too_large(path, limits)
    check_ratio(path, total, packed, limits)
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for entry in entries:
        key = tuple(part.casefold() for part in entry.parts)
        if not entry.is_directory and not key:
            raise InvalidArchive(f"{path.name}: entry {entry.name!r} has no name", "unsafe", entry.name)
        if not entry.is_directory and key in files:
            raise InvalidArchive(f"{path.name}: entry {entry.name!r} is there twice", "unsafe", entry.name)
        (folders if entry.is_directory else files).add(key)
        folders.update(key[:length] for length in range(1, len(key)))
    if both := files & folders:
        name = "/".join(min(both))
        raise InvalidArchive(f"{path.name}: entry {name!r} is a file and a folder", "unsafe", name)


def check_ratio(path: Path, unpacked: int, packed: int, limits: Limits) -> None:
    if unpacked > RATIO_MATTERS_FROM and unpacked > packed * limits.max_ratio:
        raise InvalidArchive(
            f"{path.name}: {packed} bytes unpack to {unpacked} or more, over {limits.max_ratio} for one; see max_archive_ratio",
            "too_large",
        )


def too_many(path: Path, limits: Limits, found: str) -> InvalidArchive:
    return InvalidArchive(
        f"{path.name}: {found}, expected at most {limits.max_entries} entries; see max_archive_entries", "too_large"
    )


def too_large(path: Path, limits: Limits) -> InvalidArchive:
    return InvalidArchive(f"{path.name}: unpacks to more than {limits.max_bytes} bytes; see max_archive_bytes", "too_large")
