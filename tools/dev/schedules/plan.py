"""`Plan`: one schedule, drawn from a seed: the model, what clients and operators do when, and what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Any

from ....core.model_config import Batching, InstanceGroup, ModelConfig, QueuePolicy, TensorSpec
from .faults import Faults

MODEL = "m"
#: Bytes of a row: of some models so many that they go through the arena.
SMALL, LARGE = 8, 6000


@dataclass(frozen=True)
class Act:
    """Something that happens at `at_ns` after the start: `what` with `number` (of requests, workers, or which one)."""

    at_ns: int
    what: str
    number: int = 0


@dataclass(frozen=True)
class Ask:
    """One request. `cancel_ns`: how long after it was sent its client leaves, 0 = never. `sequence`: the client, of sequences."""

    rows: int
    lane: int
    priority: int
    timeout_us: int
    cancel_ns: int
    sequence: int = 0
    end: bool = False
    start: bool = False


@dataclass
class Plan:
    """A schedule. `preempt`, `stall`: as of `Machine`. `rough`: the first load may fail too."""

    seed: str
    config: ModelConfig
    workers: int
    faults: Faults
    acts: list[Act]
    asks: list[Ask]
    preempt: float
    stall: float
    rough: bool
    end_ns: int
    turns: random.Random = field(repr=False)

    def __post_init__(self) -> None:
        #: Whether models fail in it, and whether nothing at all goes wrong: then every request is answered within its own limits.
        self.wrecked = bool(self.faults.fail)
        self.harmless = not self.rough and not self.faults.any and all(act.what == "ask" for act in self.acts)

    def __str__(self) -> str:
        """The model, what goes wrong and who does what, as far as it is not as usual."""
        config = _told(self.config, ModelConfig(MODEL, "1", "python"))
        faults = _told(self.faults, Faults(self.turns))
        acts = [f"{act.at_ns / 1e6:12.6f} ms  {act.what} {act.number}" for act in self.acts]
        turns = f"turns lost at {self.preempt:g} of all locks, {self.stall:g} of them for a while"
        return "\n".join(
            [f"seed {self.seed}: {self.workers} workers, {turns}", f"model: {config}", f"faults: {faults}", *acts, "-- run"]
        )


def _told(one: Any, usual: Any) -> str:
    """The fields in which they differ."""
    names = [each.name for each in fields(one) if each.name != "dice"]
    return ", ".join(f"{name}={getattr(one, name)!r}" for name in names if getattr(one, name) != getattr(usual, name))


def plan(seed: int) -> Plan:
    """The schedule of this seed, always the same."""
    dice, turns = random.Random(f"plan {seed}"), random.Random(f"turns {seed}")
    kind = dice.choice(("batches", "batches", "batches", "sequences", "sequences", "open", "alone"))
    batch_ns = dice.choice((1, 5, 20)) * 1_000_000
    workers = dice.choice((1, 1, 2, 3))
    config = _config(dice, kind, workers)
    span = dice.choice((100, 500, 2000)) * 1_000_000
    calm = dice.random() < 0.2
    acts = _arrivals(dice, span)
    count = sum(act.number for act in acts)
    if not calm:
        acts = sorted([*acts, *_operations(dice, span)], key=lambda act: act.at_ns)
    faults = Faults(turns, batch_ns, overlaps=config.overlaps) if calm else _faults(dice, turns, batch_ns, config.overlaps)
    faults.steady = dice.random() < 0.5
    return Plan(
        seed=str(seed),
        config=config,
        workers=workers,
        faults=faults,
        acts=acts,
        asks=[_ask(dice, config) for _ in range(count)],
        preempt=dice.choice((0.0, 0.02, 0.2)),
        stall=dice.choice((0.0, 0.3)),
        rough=not calm and dice.random() < 0.2,
        end_ns=span,
        turns=turns,
    )


def _config(dice: random.Random, kind: str, workers: int) -> ModelConfig:
    width = 0 if kind == "alone" else dice.choice((1, 2, 4, 8))
    return ModelConfig(
        MODEL,
        "1",
        "python" if kind == "open" else "onnxruntime",
        directory="/nonexistent",
        max_batch_size=width,
        inputs=(TensorSpec("IN", "UINT8", (-1,)),),
        outputs=(TensorSpec("OUT", "UINT8", (-1,)),),
        batching=_batching(dice, width) if kind in ("batches", "open") and width else Batching(),
        instance_groups=(InstanceGroup(count=workers, kind="KIND_CPU"),),
        decoupled=kind == "open",
        max_in_flight=dice.choice((0, 1, 2, 2, 3)),
        retry_after_crash=dice.random() < 0.5,
        sequence=_sequence(dice) if kind == "sequences" else None,
        response_timeout_s=dice.choice((0.4, 2.0)),
        startup_timeout_s=1.0,
    )


def _batching(dice: random.Random, width: int) -> Batching:
    levels = dice.choice((0, 0, 2))
    return Batching(
        enabled=True,
        max_queue_delay_us=dice.choice((0, 0, 2_000, 20_000)),
        preferred_batch_size=dice.choice(((), (), (max(1, width // 2),))),
        preserve_ordering=dice.random() < 0.2,
        priority_levels=levels,
        default_priority_level=1 if levels else 0,
        default_queue_policy=QueuePolicy(
            max_queue_size=dice.choice((0, 0, 4, 16)),
            default_timeout_us=dice.choice((0, 0, 30_000)),
            allow_timeout_override=dice.random() < 0.5,
            timeout_action=dice.choice(("REJECT", "REJECT", "DELAY")),
        ),
    )


def _sequence(dice: random.Random) -> dict[str, Any]:
    delay = dice.choice((0, 0, 3_000))
    document: dict[str, Any] = {"max_sequence_idle_microseconds": dice.choice((20_000, 1_000_000))}
    if dice.random() < 0.5:
        share = dice.choice((0.0, 0.6))
        return {**document, "direct": {"max_queue_delay_microseconds": delay, "minimum_slot_utilization": share}}
    oldest = {"max_candidate_sequences": dice.choice((1, 4)), "max_queue_delay_microseconds": delay}
    return {**document, "oldest": {**oldest, "preserve_ordering": dice.random() < 0.3}}


def _arrivals(dice: random.Random, span: int) -> list[Act]:
    """Requests one by one and in bursts."""
    burst = dice.choice((1, 1, 4, 10))
    return [Act(dice.randrange(span), "ask", dice.randint(1, burst)) for _ in range(dice.randint(3, 24 // min(burst, 3)))]


def _operations(dice: random.Random, span: int) -> list[Act]:
    kinds = dice.sample(("kill", "kill all", "stop", "scale", "reload", "scale again"), dice.randint(0, 3))
    return [Act(dice.randrange(span), what, dice.randrange(4)) for what in kinds for _ in range(dice.randint(1, 3))]


def _faults(dice: random.Random, turns: random.Random, batch_ns: int, overlaps: bool) -> Faults:
    def share(*values: float) -> float:
        return dice.choice((0.0, *values))

    return Faults(
        turns,
        batch_ns,
        overlaps=overlaps,
        crash=share(0.0, 0.03, 0.2),
        hang=share(0.0, 0.05),
        fail=share(0.0, 0.1),
        partly=share(0.0, 0.3),
        slow=share(0.0, 0.1),
        load_refused=share(0.0, 0.3),
        load_crash=share(0.0, 0.2),
        load_hang=share(0.0, 0.1),
        not_started=share(0.0, 0.1),
    )


def _ask(dice: random.Random, config: ModelConfig) -> Ask:
    rows = 1 if config.sequence is not None else dice.randint(1, max(1, config.max_batch_size))
    if dice.random() < 0.7:
        rows = 1
    flag = dice.random()
    return Ask(
        rows=rows,
        lane=dice.choice((0, 0, 0, 1, 2)),
        priority=dice.choice((0, 1, 2)),
        timeout_us=dice.choice((0, 0, 0, 5_000, 50_000)),
        cancel_ns=dice.randrange(1, 50_000_000) if dice.random() < 0.1 else 0,
        sequence=dice.randint(1, 4) if config.sequence is not None else 0,
        start=flag < 0.1,
        end=flag > 0.8,
    )
