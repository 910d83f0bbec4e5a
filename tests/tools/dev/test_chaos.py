"""The chaos run's own books: what counts as lost, when a recovery is over; and one short run against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.tools.dev.chaos import __main__ as chaos
from jitney.tools.dev.chaos.clients import judged
from jitney.tools.dev.chaos.faults import FAULTS
from jitney.tools.dev.chaos.ledger import Answer, Kind, Ledger, Window
from jitney.tools.dev.chaos.report import judge, table


def ledger(*windows: Window, clients: tuple[str, ...] = ("a",)) -> Ledger:
    made = Ledger()
    made.background = set(clients)
    for window in windows:
        made.open(window)
    return made


def answer(began: float, ended: float, kind: Kind = "right", client: str = "a") -> Answer:
    return Answer(client, began, ended, kind, "why")


def test_a_connection_that_is_cut_is_a_lost_answer_unless_a_process_with_connections_was_killed() -> None:
    books = ledger(Window("calm", 0, 0, cuts=False), Window("kill", 10, 10, cuts=True), Window("after", 20, 20, cuts=False))
    books.add(answer(1, 2, "cut"))
    books.add(answer(9, 11, "cut"))  # asked before, cut by the kill
    books.add(answer(19, 21, "cut"))  # asked of what was killed
    books.add(answer(22, 23, "cut"))
    calm, kill, after = books.windows
    assert (calm.counts(), kill.counts(), after.counts()) == ({"unanswered": 1}, {"cut": 1}, {"cut": 1, "unanswered": 1})


def test_that_a_model_is_not_there_is_a_reason_while_a_server_starts_only() -> None:
    books = ledger(Window("calm", 0, 0, cuts=False), Window("kill", 10, 10, cuts=True))
    books.add(answer(1, 2, "absent"))
    books.add(answer(11, 12, "absent"))
    assert [window.counts() for window in books.windows] == [{"wrong": 1}, {"refused": 1}]


def test_a_recovery_is_over_with_the_last_client_s_first_right_answer_after_its_last_wrong_one() -> None:
    window = Window("kill", 0, 10, cuts=True)
    books = ledger(window, clients=("a", "b"))
    for one in (
        answer(9, 9.5),
        answer(10, 11, "refused"),
        answer(11, 12),
        answer(12, 13, "refused"),
        answer(13, 14.5),
        answer(15, 16),
    ):
        books.add(one)
    books.add(answer(10, 10.5, client="b"))
    assert window.recovery({"a", "b"}) == 4.5
    assert window.recovery({"a", "b", "c"}) is None, "a client that was never right again"
    assert not books.recovered(16.2, quiet=1.0), "b has said nothing lately"
    books.add(answer(15.9, 16.1, client="b"))
    assert books.recovered(16.2, quiet=1.0)


def test_a_gap_is_a_time_in_which_nobody_was_right() -> None:
    window = Window("kill", 0, 0, cuts=True)
    window.answers += [answer(0, 1), answer(1, 2, client="b"), answer(2, 5, "refused"), answer(5, 6)]
    window.ended = 7
    assert window.longest_gap() == 4


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([answer(1, 2)], ""),
        ([answer(1, 2, "wrong"), answer(2, 3)], "1 wrong"),
        ([answer(1, 2, "unanswered"), answer(2, 3)], "1 unanswered"),
        ([answer(1, 8, "refused"), answer(8, 9)], "recovery in 9.0 s"),
        ([answer(1, 2, "refused")], "not all clients were right again"),
    ],
)
def test_what_is_not_good(answers: list[Answer], problem: str) -> None:
    window = Window("kill", 0, 0, cuts=False, ended=10, answers=answers)
    assert judge(window, {"a"}, 3.0) == problem
    lines, good = table(ledger(window), 3.0)
    assert good is (problem == "") and problem in lines[-1]


def test_a_refusal_has_to_say_why() -> None:
    assert judged(503, b'{"error": "full"}', lambda body: True)[0] == "refused"
    assert judged(503, b"", lambda body: True)[0] == "wrong"
    assert judged(400, b'{"error": "bad"}', lambda body: True)[0] == "wrong"
    assert judged(200, b"1", lambda body: body == b"2")[0] == "wrong"
    assert judged(404, b'{"error": "\'m\' has no available versions"}', lambda body: True)[0] == "absent"


def test_names_of_faults_are_their_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) > 30
    assert 15 < sum(fault.short for fault in FAULTS) < len(names)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The books of a real run; how long a recovery takes on a busy machine is not this test's business."""
    options = ["--minutes", "0.1", "--seed", "3", "--only", "kill -9 of a", "--recovery", "60", "--folder", str(tmp_path)]
    assert chaos.main(options) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "kill -9 of a worker" in printed and "kill -9 of a front end" in printed and printed.endswith("good\n")
    assert "killed by SIGKILL" in (tmp_path / "server.log").read_text()
