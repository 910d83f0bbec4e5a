from __future__ import annotations

from collections.abc import Iterator

import pytest

from jitney.tests.fakes.grpc import Site, grpc_serving, repository


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with the models `double`, `count` and `sum`."""
    with grpc_serving(repository(tmp_path_factory.mktemp("models"))) as site:
        yield site
