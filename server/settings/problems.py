"""What keeps a server from starting with settings that could each be read: who could reach it, and what it would serve."""

from __future__ import annotations

import re
from pathlib import Path

from .addresses import Address
from .settings import Settings

#: Shortest token that JITNEY_TOKEN may hold.
MIN_TOKEN = 8


def access_problems(settings: Settings) -> list[str]:
    """Why the server must not start: other machines could use or manage it and no setting says whether requests need tokens."""
    problems = []
    if settings.token and len(settings.token) < MIN_TOKEN:
        problems.append(f"JITNEY_TOKEN has {len(settings.token)} characters, expected at least {MIN_TOKEN}")
    if re.search(r"\s", settings.token):
        problems.append("JITNEY_TOKEN has blanks in it, which an Authorization header cannot carry")
    if settings.disable_token_authorization is not None or settings.token:
        return problems
    for key in ("inference_address", "management_address", "kserve_address"):
        bound: Address | None = getattr(settings, key)
        if bound is not None and not bound.is_local:
            problems.append(_unguarded(f"{key} {bound}"))
    problems += [_unguarded(f"{at.setting} {at}") for at in settings.grpc_addresses if not at.is_local]
    return problems


def _unguarded(bound: str) -> str:
    return (
        f"{bound} can be reached from other machines, and nothing says how requests are authorized. Set "
        "disable_token_authorization=false (tokens as TorchServe's, in key_file.json), or JITNEY_TOKEN in the "
        "environment, or start with --disable-token-auth where something else guards the port"
    )


def start_problems(settings: Settings) -> list[str]:
    """What is missing before models can be served, in the words of `torchserve`."""
    problems = []
    if not settings.model_store and not settings.model_repository:
        problems.append("Missing mandatory parameter --model-store")
    for flag, folder in (("model-store", settings.model_store), ("workflow-store", settings.workflow_store)):
        if folder and not Path(folder).is_dir():
            problems.append(_not_found(flag, folder))
    problems += [_not_found("model-repository", folder) for folder in settings.model_repository if not Path(folder).is_dir()]
    return problems


def _not_found(flag: str, folder: str) -> str:
    return f"--{flag} directory not found: {folder}{', which is a file' if Path(folder).is_file() else ''}"
