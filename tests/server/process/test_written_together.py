"""Lines of every request: together to their file, in the form and order in which they would go there one by one."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from jitney.server.process import lost_lines, written_together
from jitney.server.process.log_format import JsonFormatter, PlainFormatter
from jitney.server.process.logs import ACCESS_FORMAT
from jitney.server.process.written_together import WrittenTogether, plain, write
from jitney.tools.bench.served import wait_until

PATIENCE = 10
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - (.*)")


class Target(logging.Handler):
    """Counts what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.broken = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.broken:
            try:
                raise OSError(28, "No space left on device")
            except OSError:
                self.handleError(record)
                return
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [line for record in self.records for line in record.getMessage().splitlines()]


def opened(target: logging.Handler) -> WrittenTogether:
    handler = WrittenTogether(target)
    handler.setFormatter(PlainFormatter(ACCESS_FORMAT))
    return handler


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def logger(target: Target) -> Iterator[logging.Logger]:
    logger = logging.Logger("of this test", logging.INFO)  # which no other test knows
    logger.propagate = False
    logger.addHandler(opened(target))
    yield logger
    for handler in logger.handlers:
        handler.close()


def opened_by(logger: logging.Logger) -> WrittenTogether:
    [handler] = logger.handlers
    assert isinstance(handler, WrittenTogether)
    return handler


def messages(target: Target) -> list[str]:
    found = [LINE.fullmatch(line) for line in target.lines]
    return [match[1] for match in found if match is not None]


def test_lines_with_and_without_a_record_have_one_form_and_their_order(logger: logging.Logger, target: Target) -> None:
    logger.info("first %d%%", 1)
    write(logger, ["100% second", "third %s"])
    logger.info("fourth")
    wait_until(lambda: len(target.lines) == 4, PATIENCE, "four lines")
    assert messages(target) == ["first 1%", "100% second", "third %s", "fourth"]
    times = [line[:23] for line in target.lines]
    assert times == sorted(times)


def test_many_lines_are_one_record(logger: logging.Logger, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_together, "WAIT_SECONDS", 0.5)
    for number in range(1000):
        write(logger, [str(number)])
    wait_until(lambda: len(target.lines) == 1000, PATIENCE, "all lines")
    assert messages(target) == [str(number) for number in range(1000)]
    assert len(target.records) <= 3


def test_a_warning_is_there_at_once_and_what_was_before_it(
    logger: logging.Logger, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_together, "WAIT_SECONDS", 1000)
    write(logger, ["before"])
    logger.warning("a warning")
    assert messages(target) == ["before", "a warning"]


def test_lines_of_many_threads_are_all_there_and_in_order_for_each(logger: logging.Logger, target: Target) -> None:
    def log(name: str) -> None:
        for number in range(300):
            write(logger, [f"{name} {number}"]) if number % 2 else logger.info("%s %d", name, number)

    threads = [threading.Thread(target=log, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    logger.handlers[0].flush()
    for name in "abcd":
        assert [line for line in messages(target) if line[0] == name] == [f"{name} {number}" for number in range(300)]


def test_who_logs_faster_than_the_disk_writes_waits_for_it(
    logger: logging.Logger, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_together, "WAIT_SECONDS", 1000)
    monkeypatch.setattr(written_together, "MOST_WAITING", 1000)
    for _ in range(100):
        write(logger, ["x" * 75])  # 101 with the time
        assert opened_by(logger)._size <= 1000
    assert len(target.lines) == 100


def test_closing_writes_what_waits_and_what_comes_afterwards_is_not_lost(
    logger: logging.Logger, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_together, "WAIT_SECONDS", 1000)
    write(logger, ["before"])
    logger.handlers[0].close()
    assert messages(target) == ["before"]
    write(logger, ["after"])
    assert messages(target) == ["before", "after"]


def test_each_line_that_a_full_disk_does_not_take_is_counted(
    logger: logging.Logger, target: Target, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_together, "WAIT_SECONDS", 1000)
    lost_lines.watch([target])
    for target.broken, count in ((True, 3), (True, 4), (False, 1)):
        write(logger, ["a line"] * count)
        logger.handlers[0].flush()
    assert len(target.lines) == 1
    assert capsys.readouterr().err.splitlines() == [
        "jitney: the log (Target) cannot be written: No space left on device; lines are lost until it can",
        "jitney: the log (Target) can be written again; 7 lines were lost",
    ]


def test_files_roll_as_before(tmp_path: Path) -> None:
    handler = opened(RotatingFileHandler(tmp_path / "log", maxBytes=1000, backupCount=5, encoding="utf-8"))
    for number in range(30):
        handler.add([f"{number} {'x' * 80}"])
        handler.flush()
    handler.close()
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(texts) >= 4 and all(len(text) <= 1000 for text in texts.values())
    found = re.findall(r" - (\d+) x", "".join(texts.values()))
    assert sorted(map(int, found)) == list(range(30))


def test_only_a_file_of_plain_lines_alone_takes_them_without_records(logger: logging.Logger, target: Target) -> None:
    assert plain(logger) is logger.handlers[0]
    logger.addHandler(logging.NullHandler())
    assert plain(logger) is None
    logger.removeHandler(logger.handlers[-1])
    logger.handlers[0].setFormatter(JsonFormatter())
    assert plain(logger) is None
    logger.handlers[0].setFormatter(PlainFormatter(ACCESS_FORMAT))
    logger.propagate = True
    assert plain(logger) is None
    write(logger, ["by a record"])
    logger.handlers[0].flush()
    assert messages(target) == ["by a record"]
