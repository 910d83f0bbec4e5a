"""Model versions as requests name them: a string field, "" for the version that serves by default."""

from __future__ import annotations

import re

from ....core.errors import InvalidRequest

#: An archive's are any text, in practice this; Triton's are integers.
_ARCHIVES = re.compile(r"\d+\.[\w.+-]{1,64}", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)


def version_of(text: str) -> str | None:
    """The version, None where none is named; InvalidRequest, in Triton's words, for what is none."""
    if not text:
        return None
    if _ARCHIVES.fullmatch(text):
        return text
    if not _INTEGER.fullmatch(text) or int(text) > 2**63 - 1:
        raise InvalidRequest(
            f"failed to get model version from specified version string '{text}' (details: stol), version should be an "
            "integral value > 0"
        )
    if int(text) < 1:
        raise InvalidRequest(f"invalid model version specified '{text}' , version should be an integral value > 0")
    return str(int(text))
