"""`Tracing`: which requests are traced, and where their records go; one object for each process.

A request that is over looks up the rule of its model, `rules[""]` where it has none of its own, and counts its turn. That is all
that one costs which is not traced. Where nothing is traced at all there are no rules.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Mapping

import msgspec

from ...core.call import Call
from ...core.errors import JitneyError
from ...core.request import Response
from .record import Front, TraceRecord, record_of

log = logging.getLogger(__name__)


class Rule(msgspec.Struct, array_like=True, frozen=True):
    """rate: every so many-th request, 0 = none. follows: also those whose clients trace them. tensors: with their tensors."""

    rate: int
    follows: bool
    tensors: bool = False


#: Model -> rule, "" of all others; empty where nothing is traced.
Rules = Mapping[str, Rule]


class Sampler:
    """A rule, and the turns of the requests that it is asked for."""

    __slots__ = ("follows", "rate", "rule", "tensors", "turns")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.rate, self.follows, self.tensors = rule.rate, rule.follows, rule.tensors
        self.turns = itertools.count(1)  # atomic: any thread takes the next


def _nowhere(record: TraceRecord) -> None:
    """Of a server that traces nothing."""


class Tracing:
    """Threads: any. `put` takes the record of a request that is over, and must not block."""

    def __init__(self, put: Callable[[TraceRecord], None] = _nowhere) -> None:
        self.put = put
        self.rules: dict[str, Sampler] = {}

    def apply(self, rules: Rules) -> None:
        """Other rules hold from now on; turns go on where a rule stays as it is."""
        kept = self.rules
        self.rules = {
            model: kept[model] if model in kept and kept[model].rule == rule else Sampler(rule)
            for model, rule in rules.items()
        }

    def choose(self, model: str, parent: str | None) -> tuple[Sampler, bool] | None:
        """The rule by which a request is to be traced, and whether because of its turn; None where it is not to be.

        `parent` is its header traceparent. To be asked only while there are rules.
        """
        rules = self.rules
        sampler = rules.get(model) or rules.get("")
        if sampler is None:  # the last rule went meanwhile
            return None
        chosen = bool(sampler.rate) and not next(sampler.turns) % sampler.rate
        return (sampler, chosen) if chosen or (parent and sampler.follows) else None

    def take(
        self, front: Front, sampler: Sampler, chosen: bool, call: Call | None, answer: Response | JitneyError | None
    ) -> None:
        """Hands on the record of a request that `choose` chose, unless its client says that it does not trace it."""
        sampled = is_sampled(front.parent) if sampler.follows and front.parent else None
        if sampled is None:
            front.parent = front.state = (
                ""  # Triton's own traces know no clients, and what is no header counts as none (W3C)
            )
        if sampled is False or not (sampled or chosen):
            return
        chosen = chosen and not sampled
        try:
            self.put(record_of(front, call, answer, chosen=chosen, tensors=sampler.tensors))
        except Exception:  # the request is answered, and its connection must not suffer
            log.exception("a request could not be traced")


_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")


def is_sampled(traceparent: str) -> bool | None:
    """Whether the client traces the request itself: the flag `sampled` of W3C's header `version-trace-parent-flags`; None where
    it is no such header."""
    found = _PARENT.fullmatch(traceparent.strip())
    return None if found is None else bool(int(found[1], 16) & 1)
