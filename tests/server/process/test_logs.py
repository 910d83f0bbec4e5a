"""How lines are written, and what they say of the request that they concern."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.frontends import records
from jitney.server.frontends.messages import Logged
from jitney.server.http.kserve.settings import LogSettings
from jitney.server.process import logs
from jitney.server.process.log_format import JsonFormatter, PlainFormatter, TextFormatter, about
from jitney.server.process.logs import LogOptions

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def record(text: str = "it %s", *values: Any, failed: bool = False, **extra: Any) -> logging.LogRecord:
    error = None
    if failed:
        try:
            raise ValueError("wrong")
        except ValueError:
            error = sys.exc_info()
    found = logging.LogRecord("jitney.x", logging.WARNING, __file__, 1, text, values, error)
    found.created = 1.25
    found.__dict__.update(extra)
    return found


def test_a_line_as_json() -> None:
    found = json.loads(JsonFormatter().format(record("it %s", "broke", **about("mine", PARENT, status=500))))
    assert found == {
        "time": "1970-01-01T00:00:01.250Z", "level": "warning", "logger": "jitney.x", "thread": "MainThread",
        "message": "it broke", "status": 500, "request_id": "mine", "trace_id": TRACE,
    }  # fmt: skip


def test_an_exception_stands_in_its_own_field() -> None:
    text = JsonFormatter().format(record("it\nbroke", failed=True))
    assert "\n" not in text
    found = json.loads(text)
    assert found["message"] == "it\nbroke"
    assert found["exception"].startswith("Traceback") and found["exception"].endswith("ValueError: wrong")


def test_ids_stand_at_the_end_of_a_line_of_text() -> None:
    formatter = TextFormatter("%(levelname)s %(message)s")
    assert formatter.format(record("it %s", "broke")) == "WARNING it broke"
    assert formatter.format(record("it %s", "broke", **about("mine", PARENT, status=1))) == (
        f"WARNING it broke [request_id=mine trace_id={TRACE}]"
    )
    assert formatter.format(record("all", **about(request_ids=["a", "b"]))) == "WARNING all [request_ids=a,b]"
    assert formatter.format(record("it", failed=True)).splitlines()[1].startswith("Traceback")
    iso = TextFormatter("%(asctime)s %(message)s", iso=True)
    assert iso.format(record("it")) == "1970-01-01T00:00:01.250Z it"


def test_times_are_written_as_torchserve_s_log_files_have_them() -> None:
    for formatter in (TextFormatter("%(asctime)s"), PlainFormatter("%(asctime)s - %(message)s")):
        assert re.match(r"19(?:69|70)-\d\d-\d\dT\d\d:\d\d:01,\d{3}", formatter.format(record("it")))


@pytest.mark.parametrize("header", [None, "", "nonsense", "00-short-b7ad6b7169203331-01"])
def test_a_header_that_names_no_trace_is_not_shown(header: str | None) -> None:
    assert about("mine", header) == about("mine")


@pytest.fixture
def clean() -> Iterator[None]:
    names = ("jitney", *logs.FILES)
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names}
    yield
    logs.close()
    for name, (level, propagate) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = propagate
    logging.captureWarnings(False)


def test_a_file_in_place_of_the_terminal(clean: None, tmp_path: Path) -> None:
    logs.configure(None, None, LogOptions("json", "warning", str(tmp_path / "log"), access=True))
    logging.getLogger("jitney.x").info("nothing")
    logging.getLogger("jitney.x").error("something", extra=about("mine"))
    logging.getLogger("jitney.access").info("answered", extra=about("mine", client="127.0.0.1:1"))
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["message"], line["request_id"]) for line in lines] == [("something", "mine"), ("answered", "mine")]
    assert lines[1]["client"] == "127.0.0.1:1"
    with pytest.raises(InvalidConfig, match=r"log_file .*/no/log: cannot be written: No such file or directory"):
        logs.configure(None, None, LogOptions(file=str(tmp_path / "no" / "log")))


def test_times_change_while_the_server_runs(clean: None, tmp_path: Path) -> None:
    logs.configure(None, None, LogOptions(file=str(tmp_path / "log")))
    for form in ("ISO8601", "default"):
        LogSettings().update({"log_format": form})
        logging.getLogger("jitney.x").warning("now")
    first, second = (tmp_path / "log").read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z WARNING", first)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:,]+ WARNING", second)


def test_torchserve_s_files_have_the_same_format(clean: None, tmp_path: Path) -> None:
    logs.configure(tmp_path, tmp_path, LogOptions("json"))
    logging.getLogger("jitney.model.m").info("W-9000: hello")
    logging.getLogger("jitney.access").info("answered")
    logs.close()
    assert json.loads((tmp_path / "model_log.log").read_text())["message"] == "W-9000: hello"
    assert json.loads((tmp_path / "access_log.log").read_text())["logger"] == "jitney.access"


def test_what_a_front_end_logs_keeps_its_fields(clean: None, tmp_path: Path) -> None:
    logs.configure(None, None, LogOptions("json", file=str(tmp_path / "log")))
    records.write(Logged("jitney.x", logging.ERROR, "broke", "front-1:main", 1.25, {"request_id": "mine"}, "Traceback …"))
    found = json.loads((tmp_path / "log").read_text())
    assert (found["request_id"], found["exception"], found["thread"]) == ("mine", "Traceback …", "front-1:main")
