"""Clients over HTTP and gRPC, each a thread that asks on and on for something whose answer it knows."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from . import models
from .ledger import Answer, Kind, Ledger
from .site import Site

#: Seconds until a request counts as one that is never answered.
PATIENCE = 20.0
#: What may be refused with: the model's worker died, there is no place, the deadline has passed.
REFUSALS = (500, 503, 504, 507)
GRPC_REFUSALS = ("StatusCode.UNAVAILABLE", "StatusCode.INTERNAL", "StatusCode.RESOURCE_EXHAUSTED", "StatusCode.CANCELLED")
#: What is said of a model that a server has not loaded yet.
ABSENT = "has no available versions"
#: What grpcio says of a connection that ended, or that there is none.
NO_CONNECTION = re.compile(
    "failed to connect|Socket closed|[Cc]onnection (reset|refused)|recvmsg|sendmsg|GOAWAY|Broken pipe|RST_STREAM"
)
#: Values of a large answer: 30 MB of INT32.
LARGE = 7_500_000
Outcome = tuple[Kind, str]
#: A request and what its answer has to be: path, body, headers, what looks at the body.
Question = tuple[str, bytes, Mapping[str, str], Callable[[bytes], bool]]


def linear_json(dice: random.Random) -> Question:
    x = np.float32(dice.randint(0, 1 << 20))
    document = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [float(x), float(x) + 1]}]}
    expected = models.linear(np.array([x, x + 1])).tolist()
    return (
        "/v2/models/linear/infer",
        json.dumps(document).encode(),
        {},
        lambda body: json.loads(body)["outputs"][0]["data"] == expected,
    )


def linear_binary(dice: random.Random) -> Question:
    x = np.full((1, dice.choice((2, 3, 5000))), dice.randint(0, 1 << 20), np.float32)
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    expected = models.linear(x).tobytes()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return "/v2/models/linear/infer", head + x.tobytes(), headers, lambda body: body.endswith(expected)


def large_answer(dice: random.Random) -> Question:
    start = dice.randint(0, 1 << 20)
    tensor = {"name": "x", "shape": [2], "datatype": "INT32", "data": [LARGE, start]}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return (
        "/v2/models/wide/infer",
        body,
        {},
        lambda body: bool(np.array_equal(np.frombuffer(body[-4 * LARGE :], np.int32), models.wide(LARGE, start))),
    )


def digest(dice: random.Random) -> Question:
    body = dice.randbytes(dice.choice((10, 300, 100_000)))
    expected = models.digest(body)
    return "/predictions/digest", body, {"Content-Type": "application/octet-stream"}, lambda found: found == expected


class HttpClient:
    """One client of HTTP. `keeps`: its connection serves all its requests; `unique`: no two of its heads are alike."""

    def __init__(
        self, site: Site, question: Callable[[random.Random], Question], seed: int, *, keeps: bool, unique: bool
    ) -> None:
        self._site, self._question, self._keeps, self._unique = site, question, keeps, unique
        self._dice, self._numbers = random.Random(seed), itertools.count()
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> Outcome:
        path, body, headers, right = self._question(self._dice)
        if self._unique:
            headers = {**headers, "X-Request-Id": f"chaos-{next(self._numbers)}", f"X-Of-{self._dice.randint(0, 99)}": "1"}
        try:
            status, content = self._exchange(path, body, headers)
        except TimeoutError as error:
            self.close()
            return "unanswered", f"no answer within {PATIENCE:g} s: {error}"
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return "cut", f"{type(error).__name__}: {error}"
        if not self._keeps:
            self.close()
        return judged(status, content, right)

    def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._site.ports["inference"], timeout=PATIENCE)
        self._connection.request("POST", path, body, dict(headers))
        reply = self._connection.getresponse()
        return reply.status, reply.read()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def judged(status: int, content: bytes, right: Callable[[bytes], bool]) -> Outcome:
    """What an answer over HTTP is: a refusal has to say why."""
    if status == 200:
        return ("right", "") if right(content) else ("wrong", f"200 {content[:200]!r}")
    text = f"{status} {content[:300]!r}"
    try:
        document = json.loads(content)
        reason = document.get("error") or document.get("message")
    except (ValueError, AttributeError):
        reason = ""
    if status == 404 and ABSENT in str(reason):
        return "absent", text
    return ("refused" if reason and status in REFUSALS else "wrong"), text


class GrpcClient:
    """One client of Triton's gRPC service."""

    def __init__(self, site: Site, seed: int) -> None:
        self._dice = random.Random(seed)
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100),
                   ("grpc.max_reconnect_backoff_ms", 300), ("grpc.use_local_subchannel_pool", 1),
                   ("grpc.max_receive_message_length", -1)]  # fmt: skip
        self._client = triton.InferenceServerClient(f"127.0.0.1:{site.ports['grpc']}", channel_args=options)

    def ask(self) -> Outcome:
        x = np.full((1, self._dice.choice((2, 5000))), self._dice.randint(0, 1 << 20), np.float32)
        tensor = triton.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        try:
            found = self._client.infer("linear", [tensor], client_timeout=PATIENCE).as_numpy("y")
        except InferenceServerException as error:
            return grpc_judged(error)
        return ("right", "") if np.array_equal(found, models.linear(x)) else ("wrong", f"{found!r}"[:200])

    def close(self) -> None:
        self._client.close()


def grpc_judged(error: InferenceServerException) -> Outcome:
    status, text = str(error.status()), str(error.message())
    if status == "StatusCode.DEADLINE_EXCEEDED":
        return "unanswered", f"{status} {text}"
    if NO_CONNECTION.search(text):
        return "cut", f"{status} {text}"
    if ABSENT in text:
        return "absent", f"{status} {text}"
    return ("refused" if status in GRPC_REFUSALS and text else "wrong"), f"{status} {text}"


class Crowd:
    """All background clients. `pause`: seconds between an answer and the next request of each."""

    def __init__(self, site: Site, ledger: Ledger, seed: int) -> None:
        self._ledger, self._stop = ledger, threading.Event()
        clients: dict[str, tuple[Any, float]] = {}
        questions = {"json": linear_json, "binary": linear_binary, "predictions": digest}
        for number, (name, question) in enumerate(questions.items()):
            for keeps, unique in ((True, False), (True, True), (False, True)):
                kind = f"{name}{', kept' if keeps else ''}{', unique heads' if unique else ''}"
                clients[kind] = HttpClient(site, question, seed + 10 * number, keeps=keeps, unique=unique), 0.03
        clients["30 MB, kept"] = HttpClient(site, large_answer, seed + 50, keeps=True, unique=False), 0.3
        clients["gRPC 1"], clients["gRPC 2"] = (GrpcClient(site, seed + 60), 0.03), (GrpcClient(site, seed + 61), 0.03)
        ledger.background = set(clients)
        self._threads = [
            threading.Thread(target=self._run, args=(name, client, pause), name=f"client {name}", daemon=True)
            for name, (client, pause) in clients.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[str]:
        """Names of the clients that still wait for an answer though nobody should have to."""
        self._stop.set()
        deadline = time.monotonic() + PATIENCE + 5
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _run(self, name: str, client: Any, pause: float) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                kind, text = client.ask()
            except Exception as error:  # noqa: BLE001 - a client that cannot make sense of an answer has got a wrong one
                kind, text = "wrong", f"{type(error).__name__}: {error}"
            self._ledger.add(Answer(name, began, time.monotonic(), kind, text))
            self._stop.wait(pause if kind == "right" else 0.1)
        client.close()
