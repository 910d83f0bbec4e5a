"""The search of `jitney tune`: which candidates are measured, in which order, and which is best.

    round 1     every variant with one worker on all cores (one worker on a GPU), and one variant that joins those that helped
    then        the plain model and the best variants in every arrangement of workers and threads, over and over, in turns,
                until there are `ROUNDS` measurements of each or the time is up

Machines are noisy, so a candidate's figure is the median of its rounds, and a simpler candidate wins unless another is faster by
a margin. A variant whose answers differ by more than the tolerance is shown, but not chosen, and one that computes in fewer bits
is chosen only where the operator has asked for such by naming a tolerance.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...server.process import progress
from .accuracy import Accuracy, compared
from .trial import Point, Result, Subject, TrialFailed, run_trial
from .variants import PLAIN, Arrangement, Variant

ROUNDS = 3
#: How much faster something must be to count as faster, and how much where there are fewer rounds than all.
MARGIN, MARGIN_OF_FEW = 0.05, 0.1
#: Variants, besides the plain one, that are tried in every arrangement.
FINALISTS = 2
#: Bounds of one measurement in seconds.
SHORTEST, LONGEST = 0.1, 3.0
#: A variant that compiles may take this part of the whole time.
COMPILE_SHARE = 0.4
LOAD_LIMIT = 240.0

Progress = Callable[[str], None]


@dataclass
class Candidate:
    """A variant in an arrangement, with all results of it. `accuracy` is None while it is not known."""

    variant: Variant
    arrangement: Arrangement
    results: list[Result] = field(default_factory=list)
    accuracy: Accuracy | None = None
    failed: str = ""

    def __str__(self) -> str:
        return f"{self.variant.name}, {self.arrangement}"

    def points(self) -> dict[int, Point]:
        """The median of the rounds at each batch size."""
        found = {}
        for rows in self.results[0].points if self.results else ():
            seen = [result.points[rows] for result in self.results if rows in result.points]
            rates, medians, p95s = zip(*((point.rate, point.median, point.p95) for point in seen), strict=True)
            found[rows] = Point(statistics.median(rates), statistics.median(medians), statistics.median(p95s))
        return found

    @property
    def rate(self) -> float:
        """Rows per second at the best batch size; 0 where it was not measured."""
        return max((point.rate for point in self.points().values()), default=0.0)

    @property
    def spread(self) -> float:
        """How far the rounds' best rates lie apart, in parts of their median; 0 for a single round."""
        rates = [max(point.rate for point in result.points.values()) for result in self.results]
        return (max(rates) - min(rates)) / statistics.median(rates) if rates else 0.0

    def beats(self, other: Candidate) -> bool:
        """Whether it is faster by more than what measuring again would change."""
        few = min(len(self.results), len(other.results)) < ROUNDS
        return self.rate > other.rate * (1 + (MARGIN_OF_FEW if few else MARGIN))

    @property
    def best_batch(self) -> int:
        """The smallest batch within the margin of the best rate."""
        return min(rows for rows, point in self.points().items() if point.rate >= self.rate * (1 - MARGIN))


@dataclass(frozen=True)
class Plan:
    """What is searched, and for how long. `tolerance`: largest accepted difference of answers, in parts of the largest output.
    `takes_fewer_bits`: whether variants that compute in fewer bits may be chosen, within it.
    """

    subject: Subject
    variants: Sequence[Variant]
    arrangements: Sequence[Arrangement]
    sizes: Sequence[int]
    seconds: float
    tolerance: float
    takes_fewer_bits: bool = False


class Search:
    """Runs a plan; `candidates` holds everything that was tried, `skipped` what there was no time for."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self._began = time.monotonic()
        self.candidates: list[Candidate] = []
        self.skipped: list[str] = []

    def run(self) -> None:
        """TrialFailed where not even the plain model runs."""
        screened = self._screen()
        finalists = self._finalists(screened)
        waiting = [self._candidate(v, a) for v, a in itertools.product(finalists, self._plan.arrangements)]
        for _ in range(ROUNDS):
            for candidate in waiting:
                if not candidate.failed and len(candidate.results) < ROUNDS:
                    self._try(candidate)

    def _screen(self) -> list[Candidate]:
        arrangement = self._plan.arrangements[0]
        plain = self._candidate(PLAIN, arrangement)
        self._try(plain, must=True)
        if plain.failed:
            raise TrialFailed(plain.failed)
        quick = sorted(self._plan.variants, key=lambda variant: variant.slow_start)
        screened = [plain, *(self._candidate(variant, arrangement) for variant in quick if variant != PLAIN)]
        for candidate in screened[1:]:
            self._try(candidate)
        joined = join([c for c in screened[1:] if self._helps(c, plain)], [c.variant for c in screened])
        if joined is not None:
            screened.append(self._candidate(joined, arrangement))
            self._try(screened[-1])
        return screened

    def _helps(self, candidate: Candidate, plain: Candidate) -> bool:
        return self.accepted(candidate) and candidate.beats(plain)

    def _finalists(self, screened: Sequence[Candidate]) -> list[Variant]:
        others = sorted((c for c in screened[1:] if self.accepted(c)), key=lambda c: -c.rate)
        return [PLAIN, *(candidate.variant for candidate in others[:FINALISTS])]

    def _candidate(self, variant: Variant, arrangement: Arrangement) -> Candidate:
        for candidate in self.candidates:
            if (candidate.variant, candidate.arrangement) == (variant, arrangement):
                return candidate
        self.candidates.append(Candidate(variant, arrangement))
        return self.candidates[-1]

    # -- one trial --------------------------------------------------------------------------------------------------

    @property
    def _left(self) -> float:
        return self._plan.seconds - (time.monotonic() - self._began)

    def _try(self, candidate: Candidate, must: bool = False) -> None:
        """Measures a candidate once more, if there is time; a failure is kept with it."""
        plan = self._plan
        if not must and self._left < self._cost(candidate):
            if not candidate.results and str(candidate) not in self.skipped:
                self.skipped.append(str(candidate))
            return
        limit = LOAD_LIMIT if must else max(self._left, self._cost(candidate))
        if candidate.variant.slow_start and not candidate.results:
            limit = min(limit, plan.seconds * COMPILE_SHARE)
        unknown = candidate.accuracy is None
        try:
            with progress.shown.task(f"trying {candidate}"):
                result = run_trial(
                    plan.subject,
                    candidate.variant,
                    candidate.arrangement,
                    plan.sizes,
                    self._slice(),
                    limit,
                    with_answers=unknown,
                )
        except TrialFailed as error:
            candidate.failed = str(error)
            self._say(f"{candidate}: {error}")
            return
        candidate.results.append(result)
        if unknown:
            candidate.accuracy = compared(result.answers, self._reference(result).answers)
        self._say(f"{candidate}: {candidate.rate:,.1f}/s")

    def _reference(self, result: Result) -> Result:
        """The plain model's first result, whose answers all others are compared with."""
        plain = next((c for c in self.candidates if c.variant == PLAIN and c.results), None)
        return result if plain is None else plain.results[0]

    def _cost(self, candidate: Candidate) -> float:
        """Seconds that another trial is expected to take: loading, and at each size three batches or a slice."""
        known = candidate.results or [result for c in self.candidates for result in c.results]
        if not known:
            return 0.0
        last = known[-1]
        batches = sum(max(self._slice(), 2 * point.median) + point.median for point in last.points.values())
        return last.load_seconds + batches + 1.0

    def _slice(self) -> float:
        """Seconds of one measurement, so that half of all the time is spent measuring."""
        plan = self._plan
        trials = len(plan.variants) + 1 + (FINALISTS + 1) * len(plan.arrangements) * ROUNDS
        return min(LONGEST, max(SHORTEST, plan.seconds / 2 / (trials * len(plan.sizes))))

    def _say(self, text: str) -> None:
        self._progress(f"[{time.monotonic() - self._began:.0f} of {self._plan.seconds:.0f} s] {text}")

    # -- the outcome ------------------------------------------------------------------------------------------------

    def accepted(self, candidate: Candidate) -> bool:
        """Measured, and its answers are near enough to the plain model's, in a precision that may be chosen."""
        if candidate.variant.fewer_bits and not self._plan.takes_fewer_bits:
            return False
        return bool(candidate.results) and (candidate.accuracy or Accuracy()).relative <= self._plan.tolerance

    def best(self) -> Candidate:
        """The fastest accepted candidate; of those that it does not beat, the one that was tried first."""
        accepted = [candidate for candidate in self.candidates if self.accepted(candidate)]
        fastest = max(accepted, key=lambda candidate: candidate.rate)
        return next(candidate for candidate in accepted if not fastest.beats(candidate))

    def faster_but_different(self) -> Candidate | None:
        """The fastest candidate of all, where only its answers or its precision keep it from being the best."""
        measured = [candidate for candidate in self.candidates if candidate.results]
        fastest = max(measured, key=lambda candidate: candidate.rate)
        return fastest if not self.accepted(fastest) and fastest.beats(self.best()) else None


def join(helping: Sequence[Candidate], tried: Sequence[Variant]) -> Variant | None:
    """One variant with the parameters of all that helped, the fastest's where they contradict; None where it was tried."""
    if len(helping) < 2:
        return None
    parameters: dict[str, str] = {}
    for candidate in sorted(helping, key=lambda candidate: candidate.rate):
        parameters |= candidate.variant.parameters
    if any(dict(variant.parameters) == parameters for variant in tried):
        return None
    slow = any(candidate.variant.slow_start for candidate in helping)
    return Variant(" + ".join(candidate.variant.name for candidate in helping), parameters, slow)
