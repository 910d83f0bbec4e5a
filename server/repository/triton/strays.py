"""TorchServe archives that lie where a model repository is served: found, so that the log can say why they do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ....core.errors import InvalidConfig

#: What a model store's archives are called; TorchServe packs the first two, and .tar.gz.
ARCHIVES = (".mar", ".model", ".tar.gz")
#: Where people put one: beside the models, into a model's folder, into a version's.
_PLACES = ("*.mar", "*/*.mar", "*/*/*.mar")
_UNPACKED = "*/MAR-INF/MANIFEST.json"


def is_archive(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.endswith(ARCHIVES)


def holds_archives(folder: Path) -> bool:
    """Whether an archive lies in this folder itself; false where there is no such folder. InvalidConfig if it cannot be read."""
    try:
        return folder.is_dir() and any(is_archive(path) for path in folder.iterdir())
    except OSError as error:
        raise InvalidConfig(f"the folder '{folder}' cannot be read: {error.strerror}") from None


def strays(repository: Path) -> Iterator[Path]:
    """The archives in a repository's folders, packed or not."""
    for place in _PLACES:
        yield from sorted(repository.glob(place))
    yield from (manifest.parent.parent for manifest in sorted(repository.glob(_UNPACKED)))
