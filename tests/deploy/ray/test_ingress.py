"""The ingress: passes on what comes, and asks another replica only where that is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from jitney.deploy.ray import ingress as module
from jitney.deploy.ray.balancer import Balancer
from jitney.deploy.ray.record import Record

from .backend import Asked, Backend, answer, ask, die, die_within, freeze, ingress_to

INFER = "/v2/models/digits/infer"
HANDLER = "/predictions/handler"


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@on_a_loop
async def test_a_request_and_its_answer_pass_as_they_are() -> None:
    backend = Backend(answer)
    async with ingress_to(backend) as (ingress, _):
        path, headers = (
            "/predictions/a%2Fb/1",
            [(b"x-mine", b"1"), (b"x-mine", b"2"), (b"connection", b"close, x"), (b"expect", b"100-continue")],
        )
        got = await ask(ingress, "/root" + path, b"\0body", headers=headers, root="/root", query=b"x=%20&y")
        again = await ask(ingress, path, b"", method="GET")
    assert (got.status, got.body) == (200, b"\0body")
    assert got.headers == {"x-kept": "Yes", "content-length": "5"}
    first, second = backend.asked
    assert first.line == "POST /predictions/a%2Fb/1?x=%20&y HTTP/1.1"
    assert first.headers == [("host", "models.example"), ("x-mine", "1"), ("x-mine", "2"), ("content-length", "5")]
    assert second.line.startswith("GET /predictions/a%2Fb/1 ")
    assert ("content-length", "0") not in second.headers
    assert again.status == 200


@on_a_loop
async def test_a_body_without_a_length_and_one_longer_than_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BODY", 1000)
    backend, pieces = Backend(answer), [b"a" * 700, b"b" * 700, b"", b"c" * 700]
    async with ingress_to(backend) as (ingress, _):
        assert (await ask(ingress, INFER, pieces[:1])).body == pieces[0]
        assert (await ask(ingress, INFER, pieces)).body == b"".join(pieces)
        assert (await ask(ingress, INFER, b"d" * 3000)).body == b"d" * 3000
    kept, chunked, long = (dict(asked.headers) for asked in backend.asked)
    assert kept["content-length"] == "700"
    assert chunked["transfer-encoding"] == "chunked"
    assert long["content-length"] == "3000"


@on_a_loop
async def test_what_may_run_twice_goes_to_another_replica_once() -> None:
    dead, alive = Backend(die), Backend(answer)
    async with ingress_to(dead, alive) as (ingress, _):
        answers = await asyncio.gather(*(ask(ingress, INFER, b"%d" % number) for number in range(20)))
    assert [got.body for got in answers] == [b"%d" % number for number in range(20)]
    assert dead.asked
    assert len(alive.asked) == 20
    both = [Backend(die), Backend(die), Backend(answer)]
    async with ingress_to(*both) as (ingress, balancer):
        next(target for target in balancer.targets if target.name == "2").open = 100  # the last one to be chosen
        got = await ask(ingress, INFER, b"x")
    assert (got.status, len(both[2].asked)) == (503, 0)
    assert "it has been tried on two replicas" in json.loads(got.body)["error"]


@pytest.mark.parametrize("behaviour", [die, die_within])
@on_a_loop
async def test_what_may_have_run_and_may_not_run_twice_is_503(behaviour: Any) -> None:
    dead, alive = Backend(behaviour), Backend(answer)
    async with ingress_to(dead, alive) as (ingress, balancer):
        next(target for target in balancer.targets if target.name == "1").open = 100
        got = await ask(ingress, HANDLER, b"x")
    assert (got.status, got.headers["retry-after"], alive.asked) == (503, "1", [])
    error = json.loads(got.body)
    assert error["type"] == "ServiceUnavailableException"
    assert "may have run; it is not known to be idempotent" in error["message"]


@on_a_loop
async def test_what_was_not_sent_goes_to_any_other_replica_whatever_it_is() -> None:
    gone, alive = Backend(answer), Backend(answer)
    async with ingress_to(gone, alive) as (ingress, balancer):
        balancer.update({"0": Record("127.0.0.1", 1, ready=True), "1": Record("127.0.0.1", alive.port, ready=True)})
        for _ in range(10):
            assert (await ask(ingress, HANDLER, b"x")).status == 200
        assert [target.up for target in balancer.targets] == [False, True]


@on_a_loop
async def test_a_frozen_replica_loses_what_may_run_twice_and_keeps_the_rest() -> None:
    frozen, alive = Backend(freeze), Backend(answer)
    async with ingress_to(frozen, alive) as (ingress, balancer):
        _, second = balancer.targets
        second.open = 100
        inference, handler = asyncio.create_task(ask(ingress, INFER, b"i")), asyncio.create_task(ask(ingress, HANDLER, b"h"))
        while len(frozen.asked) < 2:
            await asyncio.sleep(0.01)
        await balancer.ping_all()
        assert [target.up for target in balancer.targets] == [False, True]
        assert (await inference).body == b"i"
        assert not handler.done()
        assert (await ask(ingress, HANDLER, b"another")).status == 200
        frozen.behaviour = answer
        await balancer.ping_all()
        assert [target.up for target in balancer.targets] == [True, True]
        handler.cancel()
        await asyncio.gather(handler, return_exceptions=True)


@on_a_loop
async def test_what_runs_on_the_only_replica_stays_there_until_another_one_is_up() -> None:
    frozen, late = Backend(freeze), Backend(answer)
    async with ingress_to(frozen, late) as (ingress, balancer):
        records = {target.name: target.record for target in balancer.targets}
        balancer.update({"0": records["0"]})
        inference = asyncio.create_task(ask(ingress, INFER, b"i"))
        while not frozen.asked:
            await asyncio.sleep(0.01)
        await balancer.ping_all()
        await asyncio.sleep(0.05)
        assert not inference.done()
        balancer.update(records)
        await balancer.ping_all()
        assert (await inference).body == b"i"
    assert len(late.asked) == 1


@on_a_loop
async def test_requests_wait_for_a_replica_and_hear_when_none_comes() -> None:
    backend = Backend(answer)
    async with ingress_to(backend, wait=5) as (ingress, balancer):
        known = {"0": next(iter(balancer.targets)).record}
        balancer.update({})
        waiting = asyncio.create_task(ask(ingress, HANDLER, b"x"))
        await asyncio.sleep(0.05)
        balancer.update(known)
        assert (await waiting).status == 200
    async with ingress_to(wait=0.1) as (ingress, _):
        got = await ask(ingress, HANDLER, b"x")
    assert got.status == 503
    assert "no replica has come up within 0.1 s; 0 are known" in json.loads(got.body)["message"]


@on_a_loop
async def test_a_stream_passes_as_it_comes_and_its_end_is_no_secret() -> None:
    go = asyncio.Event()

    async def stream(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        await asyncio.wait_for(go.wait(), 5)
        writer.write(b"6\r\nsecond\r\n" + (b"0\r\n\r\n" if asked.body == b"whole" else b""))
        return asked.body == b"whole"

    async with ingress_to(Backend(stream)) as (ingress, _):
        task = asyncio.create_task(ask(ingress, HANDLER, b"whole"))
        await asyncio.sleep(0.05)
        go.set()
        assert (await task).chunks == [b"first", b"second"]
        with pytest.raises(ConnectionError, match="lost within its answer"):
            await ask(ingress, HANDLER, b"cut")


@on_a_loop
async def test_a_refusal_before_the_end_of_the_body_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BODY", 10)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with ingress_to() as (ingress, balancer):
        balancer.update({"0": Record("127.0.0.1", server.sockets[0].getsockname()[1], ready=True)})
        got = await ask(ingress, HANDLER, [b"x" * 100_000] * 50)
    server.close()
    assert (got.status, got.body) == (413, b"big")


@on_a_loop
async def test_head_answers_without_a_body_and_answers_that_end_with_the_connection() -> None:
    async def both(asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = asked.line.startswith("HEAD")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" if head else b"HTTP/1.1 200 OK\r\n\r\nto the end")
        return head

    async with ingress_to(Backend(both)) as (ingress, _):
        got = await ask(ingress, "/v2", method="HEAD")
        assert (got.status, got.headers["content-length"], got.body) == (200, "7", b"")
        assert (await ask(ingress, "/v2", method="GET")).body == b"to the end"


@on_a_loop
async def test_the_fewest_requests_win_and_the_ready_before_others() -> None:
    balancer = Balancer(1)
    balancer.update({name: Record("h", 1, ready=name != "c") for name in "abc"})
    a, b, _ = balancer.targets
    a.open = 2
    b.open = 1
    assert balancer.choose() is b
    a.open = 0
    assert balancer.choose() is a
    assert balancer.choose(["a"]) is b
    balancer.down(a, OSError())
    balancer.down(b, OSError())
    found = balancer.choose()
    assert found is not None
    assert found.name == "c"
