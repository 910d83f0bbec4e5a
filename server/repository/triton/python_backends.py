"""Python-based backends: a backend that is a `model.py`, and whose name models write into their configurations.

Triton's documentation (backend/docs/python_based_backends.md) calls them so; its vLLM backend is one. Many models share the file,
each has what it needs, a `model.json` for example, in its own version's folder.
"""

from __future__ import annotations

from pathlib import Path

from ....core.errors import InvalidConfig
from ....core.names import safe_name
from .checks import PLATFORM_OF
from .pbtxt import Message, Source

FILENAME = "model.py"
#: Backends that are modules of this server: no file can stand for one of them.
_OWN = frozenset({*PLATFORM_OF, "python", "ensemble"})


def backend_file(config: Message, backends: Path | None, source: Source) -> Path | None:
    """`backends`/<backend>/model.py; None where the backend is one of this server's, or has no such file.

    Triton 2.51 looks nowhere else, whatever `runtime` says. InvalidConfig for a name that is no file name.
    """
    if backends is None or not config.backend or config.backend in _OWN or config.platform == "ensemble":
        return None
    try:
        file = backends / safe_name(config.backend, InvalidConfig) / FILENAME
    except InvalidConfig as error:
        raise source.error(f"'backend' of {config.name}: {error}", "backend") from None
    return file if file.is_file() else None
