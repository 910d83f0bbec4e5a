"""`python -m jitney.tools.dev.soak --minutes 30`: mixed traffic and rolling reloads; what the server holds must not grow.

The server, its models and its clients are those of `tools.dev.chaos`: HTTP and gRPC, kept connections and new ones, small and
30 MB answers, two front ends. Meanwhile models are reloaded, loaded and unloaded, versions come and go, workers are scaled. Every
few seconds memory, descriptors, threads, processes and temporary files are counted. After a warm-up a straight line is laid
through each series; status 1 where one rises by more than it may, or an answer was wrong or did not come.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from ..bench.plot import Panel, svg
from .chaos import control_faults
from .chaos.clients import Crowd
from .chaos.faults import Scene
from .chaos.ledger import Ledger, Window
from .chaos.site import Site

#: Looks that a chart shows.
POINTS = 100
#: Part of the run that is a warm-up, and seconds between two looks.
WARM_UP, LOOK_S = 0.25, 3.0
#: What each series may rise by in an hour. Memory in MB: with fewer than some ten minutes noise is more than that.
MAY_RISE = {
    "server MB": 30.0,
    "front ends MB": 30.0,
    "gRPC MB": 30.0,
    "workers MB": 60.0,
    "descriptors": 4.0,
    "threads": 4.0,
    "processes": 1.0,
    "temporary files": 2.0,
}
#: A rise that is smaller than this in the whole run is noise, whatever the slope.
NOISE = {"MB": 6.0, "descriptors": 6.0, "threads": 6.0, "processes": 2.0, "temporary files": 3.0}


#: Seconds since the beginning, and what was held then, by the names of `MAY_RISE`.
Look = tuple[float, dict[str, float]]


@dataclass(frozen=True)
class Line:
    """A series with the straight line through it. `slope` is per hour."""

    name: str
    first: float
    last: float
    highest: float
    slope: float
    hours: float

    @property
    def good(self) -> bool:
        noise = next(value for word, value in NOISE.items() if self.name.endswith(word))
        return self.slope <= MAY_RISE[self.name] or self.slope * self.hours <= noise


def line_through(name: str, seconds: Sequence[float], values: Sequence[float]) -> Line:
    """The least-squares line of values at these instants; at least two."""
    hours = np.array(seconds) / 3600
    slope, start = np.polyfit(hours, np.array(values, float), 1)
    first, last = start + slope * hours[0], start + slope * hours[-1]
    return Line(name, float(first), float(last), float(max(values)), float(slope), float(hours[-1] - hours[0]))


def look(site: Site) -> dict[str, float]:
    """What all processes of the server hold now. A worker that ends meanwhile is not counted."""
    server = psutil.Process(site.pid)
    groups = {"server MB": [site.pid], "front ends MB": site.front_ends(), "gRPC MB": site.front_ends("grpc.front_end")}
    found = {name: memory(pids) for name, pids in groups.items()} | {"workers MB": memory(site.workers())}
    own = [pid for pids in groups.values() for pid in pids]
    found["descriptors"] = float(sum(psutil.Process(pid).num_fds() for pid in own))
    found["threads"] = float(sum(psutil.Process(pid).num_threads() for pid in own))
    found["processes"] = float(len(server.children(recursive=True)))
    found["temporary files"] = float(sum(1 for _ in site.temporary.rglob("*")))
    return found


def memory(pids: Sequence[int]) -> float:
    """MB that these processes have for themselves."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().uss
    return total / 1e6


def soak(options: argparse.Namespace, folder: Path) -> bool:
    """One run; prints what it saw, and tells whether it is good."""
    site, ledger = Site(folder), Ledger()
    crowd = Crowd(site, ledger, options.seed)
    scene = Scene(site, ledger, random.Random(options.seed), short=False)
    now = time.monotonic()
    ledger.open(Window("soak", now, now, cuts=False))
    looks: list[Look] = []
    cycles = 0
    try:
        site.wait(site.ready, 60, "the server's start")
        crowd.start()
        began, end = time.monotonic(), time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            for change in (control_faults.reload, control_faults.versions, control_faults.scale, control_faults.models):
                change(scene)
            cycles += 1
            time.sleep(LOOK_S)
            looks.append((time.monotonic() - began, look(site)))
        stuck = crowd.stop()
    finally:
        status = site.close()
    if options.plot is not None:
        options.plot.write_text(plot(looks))
    late = [(at, held) for at, held in looks if at >= 60 * options.minutes * WARM_UP]
    lines = [line_through(name, [at for at, _ in late], [held[name] for _, held in late]) for name in MAY_RISE]
    return report(ledger.windows[0], lines, cycles, [*stuck, *site.endings], status)


def plot(looks: Sequence[Look]) -> str:
    """What was held over the minutes, as SVG: memory, descriptors, threads and processes; at most some `POINTS` looks of them."""
    shown = looks[:: 1 + len(looks) // POINTS]

    def panel(title: str, unit: str, names: Sequence[str]) -> Panel:
        return Panel(title, "minutes", unit, {name: [(at / 60, held[name]) for at, held in shown] for name in names})

    memory_names = [name for name in MAY_RISE if name.endswith("MB")]
    return svg([panel("memory", "MB", memory_names), panel("counted", "", ["descriptors", "threads", "processes"])])


def report(window: Window, lines: Sequence[Line], cycles: int, problems: Sequence[str], status: int) -> bool:
    counts = window.counts()
    print(
        f"\n{sum(counts.values())} answers, {dict(counts)}; {cycles} rounds of reloads, versions, scaling, loading and unloading"
    )
    print(f"\n{'':18}{'at first':>10}{'at last':>10}{'highest':>10}{'per hour':>10}{'may':>8}")
    for line in lines:
        figures = (
            f"{line.first:>10.1f}{line.last:>10.1f}{line.highest:>10.1f}{line.slope:>+10.1f}{MAY_RISE[line.name]:>8.0f}"
        )
        print(f"{line.name:18}{figures}{'' if line.good else '  !! grows'}")
    texts = [f"{a.kind}: {a.client}: {a.text}"[:300] for a in window.answers if a.kind != "right"]
    print("\n".join([*problems, *texts[:10]]))
    lost = counts["wrong"] + counts["unanswered"] + counts["cut"]
    return all(line.good for line in lines) and not lost and not problems and not status


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.tools.dev.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="where a chart of all that was held is written, as SVG")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="jitney-soak-") as folder:
        good = soak(options, Path(folder))
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
