"""Answers that come later: a request that waits for its model needs no thread.

A front that can send an answer after the application has returned puts a `Later` into the WSGI environ as `jitney.later`. A
route that has queued its request calls `wait_for`: with such a front the application returns at once, and what it returned is
dropped; when the model has answered, the front calls `conclude` on a thread of its choice and sends what that returns. With
any other front `wait_for` waits and renders in the thread that has the request, as WSGI means it.

    front's thread   environ["jitney.later"] = Later(wake) ─▶ application ─▶ route ─▶ wait_for claims it ─▶ returns
    any thread       the model's answer ─▶ wake(), once at least
    front's thread   claimed, returned and woken ─▶ conclude() ─▶ status, headers, body
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import falcon

from ..call import Call

Finish = Callable[[], None]
#: Status line, headers and body: a list where it is complete, else a stream that may block.
Answer = tuple[str, list[tuple[str, str]], Iterable[bytes]]

_BODILESS = ("1", "204", "304")


class Later:
    """One answer that may come later. `wake` may be called by any thread, also more than once, and before the claim.

    claimed     the answer will be made by `conclude`, and not by the application's return
    concluding  it is being made, or has been
    """

    __slots__ = ("_call", "_finish", "_resp", "_seal", "_wake", "claimed", "concluding")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._resp: falcon.Response | None = None
        self._call: Call | None = None
        self._finish: Finish | None = None
        self._seal: Finish | None = None
        self.claimed = self.concluding = False

    def claim(self, resp: falcon.Response, call: Call, finish: Finish) -> Callable[[], None]:
        """`finish` will render the call's answer into `resp`, and raises nothing; returns what is to be called when it could."""
        self._resp, self._call, self._finish = resp, call, finish
        self.claimed = True
        return self._wake

    def size(self) -> int:
        """Bytes of the model's answer that is there to be rendered; more where rendering it may take long."""
        return self._call.weight(self._call.delivered_bytes) if self._call is not None else 0

    def seal(self, seal: Finish) -> None:
        """`seal` is what the application does with every answer at last: count it, log it."""
        self._seal = seal

    def forget(self) -> None:
        """The answer is out, or given up: lets go of the request, which would else live on until the next garbage collection."""
        if self._call is not None:
            self._call.unwatch()
        self._call = self._resp = self._finish = self._seal = None
        self._wake = _nobody

    def conclude(self) -> Answer:
        """Renders the answer. To be called once, after the application has returned and the front was woken."""
        resp, finish = self._resp, self._finish
        if resp is None or finish is None:
            raise RuntimeError("nobody has promised an answer")
        self.concluding = True
        finish()
        if self._seal is not None:
            self._seal()
        return collect(resp)


def _nobody() -> None:
    """Who is woken when nobody waits any more."""


def later_of(req: falcon.Request) -> Later | None:
    """The request's `Later`, None where its thread has to wait."""
    return None if req.method == "HEAD" else req.env.get("jitney.later")


def wait_for(
    req: falcon.Request, resp: falcon.Response, call: Call, finish: Finish, guard: Callable[[Finish], None], *, whole: bool
) -> None:
    """Has `finish` called when the call's first answer is there, or with `whole` its final one.

    Here, and then it may raise; or later, and then inside of `guard`, which answers with what it raises.
    """
    later = later_of(req)
    if later is None:
        finish()
        return
    wake = later.claim(resp, call, lambda: guard(finish))
    call.watch(wake if not whole else lambda: wake() if call.done else None)


def collect(resp: Any) -> Answer:
    """A response (Falcon's, or one like it) as the front sends it, by the rules by which Falcon makes it one."""
    status = falcon.code_to_http_status(resp.status)
    body: Any
    if status.startswith(_BODILESS):
        body = []
    elif resp.stream is not None:
        body = resp.stream
        resp.delete_header("content-length")
    else:
        body = [resp.data] if resp.data else []
        resp.set_header("content-length", str(len(resp.data or b"")))
    headers: list[tuple[str, str]] = _wsgi_headers(resp)
    return status, headers, body


def _wsgi_headers(resp: Any) -> list[tuple[str, str]]:
    """All headers, cookies and repeated ones too, which Falcon shows to servers only."""
    headers: list[tuple[str, str]] = resp._wsgi_headers(None)
    return headers
