"""`Run`: requests that a handler gets together, and where its answers go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.request import Failure, Request, Respond, Response
from . import handler_data as data


def groups(requests: Sequence[Request]) -> list[list[int]]:
    """Indices of the requests that are handled together. BaseHandler reads what is asked, and the class to explain, from the
    first request of a batch, so explanations and descriptions are handled alone."""
    alone = [index for index, request in enumerate(requests) if is_alone(request)]
    together = [index for index in range(len(requests)) if not alone or index not in alone]
    return ([together] if together else []) + [[index] for index in alone]


def is_alone(request: Request) -> bool:
    """Whether it asks for an explanation or a description."""
    return request.headers.get("explain") == "True" or request.headers.get("describe") == "True"


class Run:
    """Requests that are handled together: their rows, their context's processors, and where their answers go."""

    #: Whether the handler may be asked once more, request by request, where it failed for all.
    repeatable = True

    def __init__(self, requests: Sequence[Request], indices: list[int], respond: Respond) -> None:
        self.requests, self.indices, self.respond = requests, indices, respond
        self.processors: list[Any] = []
        self.streamed = self.failed = False
        self._over: set[int] = set()

    def rows(self, decode: bool) -> list[dict[str, Any]]:
        return [data.row_of(self.requests[index], decode) for index in self.indices]

    def deliver(self, result: Any) -> None:
        """Answers each request with its element of the list that the handler returned."""
        if not isinstance(result, list):
            self._unfit(data.BAD_LIST, f"the handler returned {type(result).__name__}, no list")
        elif len(result) != len(self.indices):
            self._unfit(data.BAD_LENGTH, f"the handler returned {len(result)} elements for {len(self.indices)} requests")
        else:
            self._respond_all(result, final=True)

    def send(self, elements: Sequence[Any], message: str, code: int) -> None:
        """One intermediate answer for each request (`send_intermediate_predict_response`)."""
        if code != 200:
            self.fail(Failure(message, status=code, by_model=True))
            return
        self.streamed = True
        self._respond_all(elements, final=False)

    def fail(self, failure: Failure) -> None:
        """Ends all requests with the same error."""
        for index in self.indices:
            self._respond(index, Response(error=failure))

    def _unfit(self, message: str, detail: str) -> None:
        self.fail(Failure(message, "BAD_OUTPUT", detail=detail))

    def _respond_all(self, elements: Sequence[Any], final: bool) -> None:
        for index, element, processor in zip(self.indices, elements, self.processors, strict=True):
            self._respond(index, data.response_of(element, processor, final, self.streamed))

    def _respond(self, index: int, response: Response) -> None:
        """Sends it, unless this request had its final answer: a stream that failed stays failed."""
        if index in self._over:
            return
        if response.final:
            self._over.add(index)
            self.failed = self.failed or response.error is not None
        self.respond(index, response)
