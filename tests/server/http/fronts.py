"""Marks for tests that are about one front only, because they test where the fronts differ."""

import pytest

#: What hyper does otherwise, or cannot do; `test_granian` says what it does.
waitress_only = pytest.mark.parametrize("front", ["waitress"], indirect=True)
granian_only = pytest.mark.parametrize("front", ["granian"], indirect=True)
