"""`make fuzz`: each test here gets its share of FUZZ_SECONDS and is run on new examples until that is over.

Without FUZZ_SECONDS, in the whole suite, each runs once on a few dozen examples. What is found is kept in `.hypothesis`, is tried
first in the next run, and becomes a test with a name where the mended part is tested.
"""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import HealthCheck, settings

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
#: For the tests of this folder alone, so no profile is loaded.
HERE = settings(
    max_examples=300 if SECONDS else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
_share = 0.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    global _share
    here = [item for item in items if item.path.parent.name == "fuzz"]
    _share = SECONDS / max(1, len(here))
    for item in here:
        if isinstance(item, pytest.Function):
            HERE(item.obj)
    if SECONDS:
        for item in here:
            item.add_marker(pytest.mark.timeout(60 + 2 * _share))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not SECONDS:
        return None
    end = time.monotonic() + _share
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    pyfuncitem.obj(**arguments)
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
    return True
