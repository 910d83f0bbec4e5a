"""What a handler says of itself, as a description shows it: an object, or nothing."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jitney.core.request import Response
from jitney.server.serving.dataplane import DataPlane


def described(body: bytes) -> Any:
    """The metadata of a handler that answers with `body`."""
    call = SimpleNamespace(result=lambda timeout: Response(body=body))
    deployment = SimpleNamespace(
        config=SimpleNamespace(backend="handler", response_timeout_s=1.0), submit=lambda request, alone: call
    )
    plane = SimpleNamespace(registry=SimpleNamespace(deployment=lambda model, version: deployment))
    return DataPlane.customized_metadata(cast(Any, plane), "m", None)


def test_an_object_is_shown() -> None:
    assert described(b'{"labels": ["a"]}') == {"labels": ["a"]}


@pytest.mark.parametrize("body", [b"", b"a text", b"[1]", b"null", b"\xff"])
def test_anything_else_is_none(body: bytes) -> None:
    assert described(body) == {}
