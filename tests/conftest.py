"""Fixtures and rules shared by all tests."""

from __future__ import annotations

import pytest


def _cuda_missing() -> str | None:
    """The reason why gpu-marked tests cannot run here, or None."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "no CUDA device on this machine"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _cuda_missing()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
