"""Making the folder of an unpacked archive."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

#: The folder that holds `ts`.
REPO_DIR = Path(__file__).resolve().parents[4]


def download_model(model_url: str, model_dir: Path, cache: Path | None = None) -> None:
    """Puts a model as `model.pt` into `model_dir`; it is fetched once, into `cache` (~/.cache/ts where left out)."""
    kept = (Path.home() / ".cache/ts" if cache is None else cache) / Path(urlparse(model_url).path).name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".part")
        with urllib.request.urlopen(model_url, timeout=60) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
        partial.rename(kept)
    shutil.copy(kept, Path(model_dir) / "model.pt")


def copy_files(src_dir: Path, dst_dir: Path, files: Mapping[str, str]) -> None:
    """Copies files to new names: {name in `src_dir`: name in `dst_dir`}."""
    for source, target in files.items():
        shutil.copyfile(Path(src_dir) / source, Path(dst_dir) / target)
