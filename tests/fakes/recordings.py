"""Where the recordings of TorchServe and Triton lie: trimmed ones here, and the whole of them for those who have it.

JITNEY_CONFORMANCE names the folder of the whole; `shared/conformance` beside the project is taken where it does not.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "conformance" / "recordings"


def recordings(server: str) -> dict[str, Path]:
    """The folders of recordings of "torchserve" or "triton", by "own" and, where it is there, "whole"."""
    whole = Path(os.environ.get("JITNEY_CONFORMANCE") or ROOT.parent / "shared" / "conformance") / server
    return {"own": OWN / server, **({"whole": whole.resolve()} if (whole / "golden").is_dir() else {})}
