"""HandlerBackend with `continuousBatching`: handlers as TorchServe's users write them, each in a process of its own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from jitney.backends.base import DeviceLost
from jitney.backends.continuous import Round, Rounds
from jitney.backends.handler_run import Run
from jitney.core.request import Failure, Request
from jitney.tests.fakes import broken_cuda
from jitney.tests.fakes.handler_runner import Outcome, body, json_body, run

YAML = {"continuousBatching": True, "handler": {"more": 1}}


@pytest.fixture
def handler(tmp_path: Path) -> Callable[..., Outcome]:
    """Writes the handler's source and runs it."""

    def run_it(source: str, *batches: list[dict[str, Any]], **spec: Any) -> Outcome:
        (tmp_path / "my_handler.py").write_text(source)
        return run(tmp_path, "my_handler.py", list(batches), **{"yaml": YAML, **spec})

    return run_it


COUNTING = '''
import threading
import torch
from ts.torch_handler.base_handler import BaseHandler


class Counting(BaseHandler):
    """Prefill and decode, as in TorchServe's examples: the state of a request lies in `context.cache`."""

    def initialize(self, ctx):
        ctx.cache = {}
        self.rounds = 0
        self.thread = threading.get_ident()
        torch.set_grad_enabled(False)
        self.initialized = True

    def preprocess(self, requests):
        assert threading.get_ident() == self.thread and not torch.is_grad_enabled()
        self.rounds += 1
        prefill, decode = [], []
        for at, (req_id, row) in enumerate(zip(self.context.request_ids.values(), requests)):
            if req_id in self.context.cache:
                assert row == {}, row
                decode.append(req_id)
                continue
            asked = row["body"]
            self.context.cache[req_id] = {
                "left": asked["tokens"], "asked": asked, "first": self.rounds,
                "user": self.context.get_request_header(at, "user"),
            }
            prefill.append(req_id)
        return prefill, decode

    def inference(self, batch):
        prefill, decode = batch
        ids = list(self.context.request_ids.values())
        assert prefill + decode == ids or decode + prefill == ids
        for at, req_id in enumerate(ids):
            assert self.context.get_request_header(at, "user") == self.context.cache[req_id]["user"]
        return [self.step(self.context.cache[req_id], len(ids)) for req_id in ids]

    def step(self, state, together):
        if state["asked"].get("raise") == self.rounds:
            self.context.cache.clear()
            raise ValueError("as asked")
        state["left"] -= 1
        if state["asked"].get("empty"):
            return "" if state["left"] else "end"
        return {"round": self.rounds, "together": together}

    def postprocess(self, results):
        self.context.stopping_criteria = [self.criterion(req_id) for req_id in self.context.request_ids.values()]
        return results

    def criterion(self, req_id):
        def is_over(result):
            state = self.context.cache[req_id]
            if state["asked"].get("bad criterion"):
                del self.context.cache[req_id]
                raise KeyError("no criterion")
            if state["left"]:
                return False
            del self.context.cache[req_id]
            return True
        return is_over
'''


def asked(tokens: int, **more: Any) -> dict[str, Any]:
    return json_body({"tokens": tokens, **more}, user=f"user of {tokens}")


def pieces(outcome: Outcome, index: int, batch: int = 0) -> list[dict[str, Any]]:
    return [response for response in outcome.batches[batch] if response["index"] == index]


def test_each_request_gets_a_piece_a_round_until_its_criterion_says_that_it_was_the_last(
    handler: Callable[..., Any],
) -> None:
    outcome = handler(COUNTING, [asked(3), asked(1), asked(2)], [asked(2)])
    counts = [[piece["final"] for piece in pieces(outcome, index)] for index in range(3)]
    assert counts == [[False, False, True], [True], [False, True]]
    assert [piece["headers"]["ts_stream_next"] for piece in pieces(outcome, 0)] == ["true", "true", "false"]
    assert [piece["error"] for piece in outcome.batches[0] + outcome.batches[1]] == [None] * 8
    assert [piece["final"] for piece in pieces(outcome, 0, batch=1)] == [False, True]


def test_a_piece_may_be_empty(handler: Callable[..., Any]) -> None:
    outcome = handler(COUNTING, [asked(3, empty=True)])
    assert [(piece["body"], piece["final"]) for piece in pieces(outcome, 0)] == [(b"", False), (b"", False), (b"end", True)]


def test_a_round_that_raises_fails_those_in_flight_and_the_next_goes_on(handler: Callable[..., Any]) -> None:
    outcome = handler(COUNTING, [asked(9), asked(9, **{"raise": 4})], [asked(2)])
    for index in range(2):
        *before, last = pieces(outcome, index)
        assert all(not piece["final"] and not piece["error"] for piece in before)
        assert last["error"]["message"] == "Prediction failed"
        assert "as asked" in last["error"]["detail"]
    assert [piece["final"] for piece in pieces(outcome, 0, batch=1)] == [False, True]


def test_a_criterion_that_raises_fails_its_request_alone(handler: Callable[..., Any]) -> None:
    outcome = handler(COUNTING, [asked(2), asked(2, **{"bad criterion": True})])
    assert [piece["error"] for piece in pieces(outcome, 0)] == [None, None]
    (failed,) = pieces(outcome, 1)
    assert "no criterion" in failed["error"]["detail"]


def test_describing_itself_is_a_round_of_its_own_and_does_not_loop(handler: Callable[..., Any]) -> None:
    described = """
    def describe_handle(self):
        return {"rounds": self.rounds}
"""
    outcome = handler(COUNTING + described, [asked(3), body("", describe="True")], [asked(1)])
    (answer,) = pieces(outcome, 1)
    assert (answer["final"], b"rounds" in answer["body"]) == (True, True)
    assert len(pieces(outcome, 0)) == 3


def test_requests_that_are_answered_alone_do_not_keep_the_others_from_their_rounds() -> None:
    """Of which each is followed by the next before it is answered."""
    seen: list[str] = []
    over = threading.Event()

    def handle(run: Run) -> None:
        seen.append("round" if isinstance(run, Round) else "alone")
        if seen.count("round") == 4 or len(seen) == 1000:
            over.set()
        elif not isinstance(run, Round) or len(seen) == 1:
            rounds.add([Request(headers={"describe": "True"})], lambda *_: None)
        if over.is_set():
            run.fail(Failure("over"))

    def lose(error: DeviceLost) -> NoReturn:
        raise error

    rounds = Rounds(handle, lose)
    rounds.begin(lambda: SimpleNamespace(stopping_criteria=[]))
    rounds.add([Request()], lambda *_: None)
    assert over.wait(30)
    rounds.close()
    assert ("alone", "alone") not in itertools.pairwise(seen)


PLAIN = """
def handle(data, context):
    if data is None:
        return None
    context.set_response_header(0, "x-rows", str(len(data)))
    return [row["body"] for row in data]
"""


def test_a_handler_without_criteria_answers_in_one_round(handler: Callable[..., Any]) -> None:
    outcome = handler(PLAIN, [body("a")])
    (answer,) = outcome.batches[0]
    assert (answer["body"], answer["final"], answer["headers"]) == (b"a", True, {"x-rows": "1"})


OWN_HEADER = """
def handle(data, context):
    if data is None:
        context.seen = 0
        return None
    context.seen += 1
    context.stopping_criteria = {0: lambda piece: None}
    if context.seen < 3:
        context.set_response_header(0, "ts_stream_next", "true")
    return [str(context.seen)]
"""


def test_a_criterion_that_is_none_leaves_it_to_the_handlers_own_header(handler: Callable[..., Any]) -> None:
    outcome = handler(OWN_HEADER, [body("a")])
    assert [(piece["body"], piece["final"]) for piece in outcome.batches[0]] == [(b"1", False), (b"2", False), (b"3", True)]


ODD = """
import sys

def handle(data, context):
    if data is None:
        return None
    text = bytes(data[0]["body"]).decode()
    if text == "exit":
        sys.exit(3)
    return {"list": "no list", "short": [], "exception": [LookupError("in place of an answer")]}.get(text, ["fine"])
"""


def test_what_no_answer_can_be_made_of_fails_the_round(handler: Callable[..., Any]) -> None:
    texts = ("exit", "list", "short", "exception", "fine")
    outcome = handler(ODD, *[[body(text)] for text in texts])
    assert [outcome.bodies(at)[0] for at in range(5)] == [
        "Prediction failed", "Invalid model predict output", "number of batch response mismatched", "Prediction failed", b"fine",
    ]  # fmt: skip


LOSES_ITS_DEVICE = (
    broken_cuda.SOURCE
    + """
def handle(data, context):
    if data is None:
        return None
    lose()
    raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
"""
)


def test_a_round_that_loses_the_device_ends_the_worker(handler: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="lost its device"):
        handler(LOSES_ITS_DEVICE, [body("x")])


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            {"yaml": {**YAML, "asyncCommunication": True}},
            "asyncCommunication and continuousBatching, which cannot be combined",
        ),
        ({"envelope": "json"}, "service envelope 'json' cannot be combined with continuousBatching"),
    ],
)
def test_what_does_not_go_together_is_refused_at_load(handler: Callable[..., Any], spec: dict[str, Any], error: str) -> None:
    assert error in handler(PLAIN, **spec).error


def test_a_handler_that_cannot_be_loaded_says_why(handler: Callable[..., Any]) -> None:
    assert "ValueError: no weights" in handler("def handle(data, context):\n    raise ValueError('no weights')\n").error
