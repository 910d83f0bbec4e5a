"""The version of TorchServe whose handler API this package offers."""

from __future__ import annotations

from pathlib import Path

version_path = str(Path(__file__).resolve().parent / "version.txt")
__version__ = Path(version_path).read_text().strip()
