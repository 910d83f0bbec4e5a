"""What `trace_config` says, in Triton's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.server.settings.trace import TraceConfig, parse


def test_nothing_is_traced_where_nothing_is_said() -> None:
    assert parse("") == TraceConfig()
    assert (TraceConfig().level, TraceConfig().rate, TraceConfig().count) == (("OFF",), 1000, -1)


def test_entries_as_triton_s_guide_has_them() -> None:
    found = parse("triton,file=/tmp/trace.json triton,log-frequency=50 rate=100 level=TIMESTAMPS level=TENSORS count=100")
    assert found == TraceConfig("triton", ("TIMESTAMPS", "TENSORS"), 100, 100, "/tmp/trace.json", 50)


def test_settings_may_share_an_entry() -> None:
    found = parse(
        "mode=opentelemetry,url=http://there:4318/v1/traces,rate=0,level=TIMESTAMPS 'opentelemetry,resource=a=b,c'"
    )
    assert (found.mode, found.url, found.rate, found.level) == (
        "opentelemetry", "http://there:4318/v1/traces", 0, ("TIMESTAMPS",),
    )  # fmt: skip
    assert found.resource == {"a": "b,c"}
    assert parse("level=MAX mode=opentelemetry").level == ("TIMESTAMPS",)


def test_paths_are_made_absolute() -> None:
    assert parse("triton,file=trace.json").within(Path("/there")).file == "/there/trace.json"
    assert parse("rate=5").within(Path("/there")).file == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rat=5", r"expected \[mode,\]setting=value with a setting of mode, level, rate, .*, got 'rat=5'"),
        ("opentelemetry", "expected opentelemetry,setting=value, or mode=opentelemetry"),
        ("triton,url=x", "'triton,url=x': url is a setting of mode opentelemetry"),
        ("opentelemetry,file=x", "'opentelemetry,file=x': file is a setting of mode triton"),
        ("mode=jaeger", "expected mode=triton or mode=opentelemetry, got 'mode=jaeger'"),
        ("rate=often", "expected rate from 0 to 4294967295, got 'rate=often'"),
        ("count=-2", "expected count from -1 to 2147483647, got 'count=-2'"),
        ("opentelemetry,bsp_max_queue_size=0", "expected bsp_max_queue_size from 1 to"),
        ("opentelemetry,resource=name", "expected resource=key=value"),
        ("level=LOTS", "expected levels of OFF, TIMESTAMPS, TENSORS, got 'LOTS'"),
        ("level=OFF level=TIMESTAMPS", "Expect only one trace level 'OFF' is specified"),
        ("level=TIMESTAMPS", "trace file name is not given"),
        ("level=TIMESTAMPS triton,file=x rate=0", "sample rate must be non-zero"),
        ("mode=opentelemetry level=TENSORS", "mode opentelemetry has no level TENSORS"),
        ("file='x", "expected entries with blanks between them: No closing quotation"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(text)
