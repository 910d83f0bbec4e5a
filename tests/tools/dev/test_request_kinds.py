"""The bench of the ways to ask asks in each of them, and is answered."""

from __future__ import annotations

import re

import pytest

from jitney.tools.dev import request_kinds


def test_each_way_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert request_kinds.main(["--seconds", "0.1", "--rounds", "1", "--connections", "4"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(tuple("0123456789"))]
    assert [line[:52].rstrip() for line in lines] == [kind.title for kind in request_kinds.KINDS]
    assert all(re.search(r"[1-9]\d*/s +\d+\.\d µs  × \d+\.\d\d$", line) for line in lines)


def test_a_way_that_is_refused_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_kinds, "KINDS", [request_kinds.Kind("nothing", "/v2/models/none/infer", b"{}")])
    with pytest.raises(RuntimeError, match=r"nothing: .*'4"):
        request_kinds.figures(1, 0.1, 1)
