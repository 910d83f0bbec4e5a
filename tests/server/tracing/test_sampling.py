"""Which requests are traced."""

from __future__ import annotations

import pytest

from jitney.core.call import Call
from jitney.core.request import Request
from jitney.server.settings.trace import TraceConfig
from jitney.server.tracing.record import Front, TraceRecord
from jitney.server.tracing.sampling import Rule, Tracing, is_sampled
from jitney.server.tracing.settings import TraceSettings

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-%s"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (PARENT % "01", True),
        (PARENT % "03", True),
        (PARENT % "00", False),
        (f"01{PARENT[2:]}-later" % "01", True),  # of a later version
        (f"ff{PARENT[2:]}" % "01", None),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
        ((PARENT % "01").upper(), None),
        ("nonsense", None),
    ],
)
def test_the_flag_of_a_traceparent(header: str, sampled: bool | None) -> None:
    assert is_sampled(header) is sampled


def front(parent: str = "") -> Front:
    return Front("http", "POST", "/", "127.0.0.1:1", "200", 1, 2, parent, "state")


def taken(tracing: Tracing, model: str = "", parent: str = "") -> bool:
    """Whether a request is traced; `tracing.put` appends to the list that it belongs to."""
    found = tracing.choose(model, parent)
    if found is None:
        return False
    before = len(RECORDS)
    tracing.take(front(parent), *found, Call(Request()), None)
    return len(RECORDS) > before


RECORDS: list[TraceRecord] = []


def test_every_so_many_th_request_of_each_rule() -> None:
    tracing = Tracing(RECORDS.append)
    tracing.apply({"": Rule(3, follows=False), "own": Rule(1, follows=False), "off": Rule(0, follows=False)})
    assert [taken(tracing, "any") for _ in range(6)] == [False, False, True] * 2
    assert [taken(tracing, "own") for _ in range(2)] == [True, True]
    assert [taken(tracing, "off", PARENT % "01") for _ in range(2)] == [False, False]
    assert taken(tracing, "any") is False
    tracing.apply({"": Rule(3, follows=False)})  # as it was: the turns go on
    assert [taken(tracing) for _ in range(2)] == [False, True]


def test_a_client_s_decision_beats_the_turn_where_it_is_followed() -> None:
    tracing = Tracing(RECORDS.append)
    tracing.apply({"": Rule(1, follows=True)})
    assert taken(tracing, parent=PARENT % "01")
    assert (RECORDS[-1].chosen, RECORDS[-1].front.parent) == (False, PARENT % "01")
    assert not taken(tracing, parent=PARENT % "00")
    assert taken(tracing, parent="nonsense")
    assert (RECORDS[-1].chosen, RECORDS[-1].front.parent, RECORDS[-1].front.state) == (True, "", "")
    tracing.apply({"": Rule(2, follows=False)})
    assert [taken(tracing, parent=PARENT % "01") for _ in range(2)] == [False, True]
    assert RECORDS[-1].front.parent == ""


def test_a_record_that_cannot_be_handed_on_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def put(record: TraceRecord) -> None:
        raise ValueError("too large")

    tracing = Tracing(put)
    tracing.apply({"": Rule(1, follows=False)})
    assert not taken(tracing)
    assert "a request could not be traced" in caplog.text


def test_trace_count_counts_what_was_chosen() -> None:
    settings = TraceSettings(TraceConfig("opentelemetry", ("TIMESTAMPS",), rate=1, count=2))
    changes: list[int] = []
    settings.on_change = lambda: changes.extend(rule.rate for rule in settings.rules().values())
    followed, chosen = TraceRecord(front(), chosen=False), TraceRecord(front(), chosen=True)
    assert [settings.count(record) for record in (chosen, followed, chosen, chosen, followed)] == [
        True,
        True,
        True,
        False,
        True,
    ]
    assert (changes, settings.get()["trace_count"]) == ([0], "0")
    assert settings.update({"trace_count": "5"})["trace_count"] == "5"
    assert settings.rules() == {"": Rule(1, follows=True)}
    settings.update({"trace_level": "OFF"})
    assert settings.rules() == {}
