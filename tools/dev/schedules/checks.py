"""What is right at every moment of a schedule; whatever is not raises Violation. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence

from ....core.errors import (
    Cancelled,
    Draining,
    InvalidRequest,
    JitneyError,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    NoWorkers,
    QueueFull,
    QueueTimeout,
    WorkerDied,
    WorkerTimeout,
)
from ....core.model_config import ModelConfig
from ....server.batching.item import Item
from ....server.batching.queue import Batcher
from ....server.ipc.messages import WireRequest
from ....server.serving.deployment import ModelState
from ....server.serving.sequence_deployment import SequenceDeployment
from ....server.serving.worker_deployment import WorkerDeployment
from ....server.workers.placement import ALONE, OPEN
from .asked import Asked
from .machine import Violation
from .plan import Plan
from .worker import Side

#: Seconds by which instants may differ that were calculated on different ways.
_SAME_S = 1e-6


def batch_fits(plan: Plan, side: Side, requests: Sequence[WireRequest], holds: int) -> None:
    """A batch that a worker gets; `holds`: how many it has with this one."""
    config, rows = plan.config, sum(request.rows for request in requests)
    together = config.batches and (config.batching.enabled or config.sequence is not None)
    if (rows > config.max_batch_size if together else len(requests) > 1) or not requests:
        raise Violation(f"a batch of {len(requests)} requests with {rows} rows for a model of {config.max_batch_size}")
    shapes = {tuple(tensor.shape[1:]) for request in requests for tensor in request.tensors}
    if len(shapes) > 1:
        raise Violation(f"requests of shapes {shapes} in one batch")
    most = config.max_in_flight or (OPEN if config.overlaps else ALONE + 1)  # one may be ending
    if holds > (1 if config.sequence is not None else most):
        raise Violation(f"process {side.pid} holds {holds} batches, {most} at the most were agreed")


def not_again(plan: Plan, asked: Sequence[Asked]) -> None:
    """Requests that a worker begins: only once, and once more where a worker died that had them and that was asked for."""
    for each in asked:
        most = 2 if plan.config.retry_after_crash and each.in_dead_worker else 1
        if each.begun > most:
            raise Violation(f"{each} is executed for the {each.begun}th time")


def error_is_due(plan: Plan, asked: Asked, error: JitneyError, now: float) -> None:
    """Whether a request that was accepted may fail so."""
    call, sequence = asked.call, plan.config.sequence is not None
    if isinstance(error, Cancelled):
        due = bool(asked.ask.cancel_ns)
    elif isinstance(error, QueueTimeout):
        due = not asked.begun and (call is None or (call.deadline is not None and call.deadline <= now + _SAME_S))
    elif isinstance(error, WorkerTimeout):
        due = asked.begun > 0 or asked.in_dead_worker
    elif isinstance(error, WorkerDied):
        # Of two batches that two threads write to a worker side by side the server cannot tell which one it begins.
        due = sequence or (asked.in_dead_worker and (plan.preempt > 0 or not asked.spared))
    elif isinstance(error, ModelFailed):
        due = asked.begun > 0 and plan.wrecked
    elif isinstance(error, NoWorkers | Draining | ModelNotReady | ModelNotFound):
        due = not plan.harmless
    else:
        due = False
    if not due:
        raise Violation(f"{asked} fails without a reason: {error!r}")


def all_right(plan: Plan, asked: Sequence[Asked]) -> None:
    """Of a schedule in which nothing goes wrong: what is not answered was refused or left by its own limits."""
    expected: list[type[JitneyError]] = [QueueFull, QueueTimeout, Cancelled]
    if plan.config.sequence is not None:
        expected += [InvalidRequest, WorkerDied]  # idle for too long; its START was cancelled
    for each in asked:
        if each.error is not None and not isinstance(each.error, tuple(expected)):
            raise Violation(f"nothing went wrong, and {each}")


def queue_is_right(deployment: WorkerDeployment, now: float) -> None:
    """Nothing waits that may go, when nothing else can happen at this instant."""
    pool = deployment.pool
    if deployment.dispatcher.pending() and pool.no_workers_left():
        raise Violation(f"{deployment.dispatcher.pending()} requests wait for workers that will not come")
    if pool._batches.waiting and pool._roster.idle:
        raise Violation(f"{len(pool._batches.waiting)} batches wait beside an idle worker")
    if isinstance(deployment, SequenceDeployment):
        _sequences_go_on(deployment, now)
    else:
        _lanes_go_on(deployment, deployment._batcher, now)


def _lanes_go_on(deployment: WorkerDeployment, batcher: Batcher, now: float) -> None:
    config, pool = deployment.config, deployment.pool
    lanes: dict[object, list[Item]] = {}
    for key, rank, items in batcher.lines():
        lanes.setdefault(key, []).extend(items)
        late = [item for item in items if not rank & 1 and item.expires is not None and item.expires + _SAME_S < now]
        if late:
            raise Violation(f"requests wait beyond their deadline: {late}")
    ripe = {key: items for key, items in lanes.items() if _may_leave(config, items, now)}
    grows, returning = not batcher.fills_batch, deployment.dispatcher._closed_loop
    waits = grows and returning.waits_until(now - _SAME_S) > now - _SAME_S
    if ripe and pool.idle() > 0 and not waits:
        raise Violation(f"{pool.idle()} workers are idle while these may leave: {ripe}")
    if ripe and not (grows and returning.returns) and min(pool.ending(at)[0] for at in (now - _SAME_S, now)) > 0:
        raise Violation(f"a worker is about to be done while these may leave: {ripe}")
    plain = len(lanes) == 1 and not config.batching.preferred_batch_size and config.batching.enabled
    room = not config.overlaps and any(w.executing and w.held < w.in_flight and not w.deaf for w in pool._roster.members)
    full = sum(item.rows for items in lanes.values() for item in items) >= config.max_batch_size
    if plain and room and full and not pool._batches.waiting:
        raise Violation(f"a busy worker may have a full batch ahead, and {lanes} wait")


def _may_leave(config: ModelConfig, items: Sequence[Item], now: float) -> bool:
    batching = config.batching
    if not batching.enabled or not config.batches or not batching.max_queue_delay_us:
        return True
    most = max(batching.preferred_batch_size, default=config.max_batch_size)
    oldest = min(item.arrived for item in items)
    return sum(item.rows for item in items) >= most or oldest + batching.max_queue_delay_us / 1e6 + _SAME_S < now


def _sequences_go_on(deployment: SequenceDeployment, now: float) -> None:
    queue, spec = deployment._sequences, deployment._spec
    seats = deployment.pool.seats()
    if set(queue._instances) != set(seats) and deployment.state is not ModelState.UNLOADING:
        raise Violation(f"the queue knows the workers {list(queue._instances)}, the pool has {seats}")
    for instance in queue._instances.values():
        if queue._backlog and instance.free() is not None:
            raise Violation(f"{len(queue._backlog)} sequences wait beside a free slot")
        ready = [each for each in instance.slots if each is not None and each.queue and not each.busy]
        if instance.batch is not None or not ready:
            continue
        oldest = min(each.queue[0].arrived for each in ready)
        enough = spec.strategy == "direct" and len(ready) >= spec.utilization * len(instance.slots)
        if not spec.delay or enough or oldest + spec.delay + _SAME_S < now:
            raise Violation(f"{len(ready)} sequences may go on, and their worker has nothing to do")


class Sequences:
    """What workers execute of sequences: in order, one request at a time, each sequence by one worker."""

    def __init__(self) -> None:
        self._running: set[tuple[int, int]] = set()
        self._last: dict[tuple[int, int], tuple[int, int]] = {}  # sequence -> (process, number of the request)

    def began(self, pid: int, asked: Sequence[Asked], requests: Sequence[WireRequest]) -> None:
        slots = [request.parameters["triton_slot"] for request in requests]
        if len(set(slots)) != len(slots):
            raise Violation(f"two sequences in one slot: {slots}")
        for each in asked:
            key = each.sequence
            if key in self._running:
                raise Violation(f"two requests of a sequence at the same time, the second is {each}")
            at, last = self._last.get(key, (pid, -1))
            if last < 0 and not each.start:
                raise Violation(f"a sequence begins without its beginning: {each}")
            if at != pid:
                raise Violation(f"{each} is executed by process {pid}, its sequence is in {at}")
            if each.number <= last:
                raise Violation(f"{each} is executed after request {last}")
            self._running.add(key)
            self._last[key] = pid, each.number

    def finished(self, asked: Sequence[Asked]) -> None:
        self._running.difference_update(each.sequence for each in asked)
