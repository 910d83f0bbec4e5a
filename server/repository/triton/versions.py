"""Version folders of a model, and which of them its policy serves.

Triton: a version is a folder whose name is a positive integer; one with a leading zero is skipped with a warning, any other
name is not a version and is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ....core.errors import InvalidConfig
from .pbtxt import Message

log = logging.getLogger(__name__)

MAX_VERSION = 2**63 - 1


def version_directories(directory: Path) -> dict[int, Path]:
    """The version folders of a model, ascending by number."""
    found = {}
    for path in directory.iterdir():
        name = path.name
        if not (name.isascii() and name.isdecimal() and path.is_dir()):
            continue
        if name.startswith("0"):
            log.warning("%s: skipped, a version folder has no leading zero", path)
        elif int(name) <= MAX_VERSION:
            found[int(name)] = path
    return dict(sorted(found.items()))


def served(policy: Message, available: Sequence[int], model: str) -> list[int]:
    """The versions that the policy (`latest`, `all` or `specific`) serves, ascending; InvalidConfig where none is left."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        chosen = sorted(available)
    elif choice == "specific":
        for version in sorted(set(policy.specific.versions) - set(available)):
            log.warning("model '%s': version %d is in its version_policy and not in its folder", model, version)
        chosen = sorted(set(policy.specific.versions) & set(available))
    else:
        count = policy.latest.num_versions if choice == "latest" else 1
        chosen = sorted(available)[-count:] if count else []
    if not chosen:
        raise no_version(model, _excluded(policy, available))
    return chosen


def no_version(model: str, reason: str) -> InvalidConfig:
    """Triton's sentence for a model without a version to serve, with the reason."""
    return InvalidConfig(f"at least one version must be available under the version policy of model '{model}': {reason}")


def _excluded(policy: Message, available: Sequence[int]) -> str:
    """Why a policy leaves nothing of the versions that there are."""
    there = ", ".join(map(str, sorted(available))) or "none"
    if policy.WhichOneof("policy_choice") == "specific":
        wanted = ", ".join(map(str, policy.specific.versions)) or "none"
        return f"its folder has the versions {there}, version_policy asks for {wanted}"
    return f"its folder has the versions {there}, version_policy asks for the latest 0"
