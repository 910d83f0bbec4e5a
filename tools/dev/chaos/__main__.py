"""`python -m jitney.tools.dev.chaos --minutes 3 --seed N`: faults under load; status 1 where an answer is wrong or lost.

A server with front ends and gRPC is started, clients that know each right answer ask it without end, and one fault comes after
the other, in an order that the seed decides. After each the clients have to be right again within `--recovery` seconds. The
run ends in time whatever happens: a watchdog ends it a minute after it should have.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import tempfile
import time
from pathlib import Path

from . import client_faults, control_faults, handler_faults, process_faults, resource_faults  # noqa: F401 - they enter their faults
from .clients import Crowd
from .faults import FAULTS, Fault, Scene, Skipped
from .ledger import Ledger, Window
from .report import examples, table
from .site import Site

#: How long all clients have to have been right before the next fault, and how long that is waited for.
QUIET_S, WAIT_S = 0.7, 15.0
#: How long nothing happens at first.
CALM_S = 2.0
#: How long the server takes to start where nothing else runs; how long it may take, and the run to end.
START_TAKES_S, START_S, OVERTIME_S = 3.0, 60.0, 120.0


class Run:
    """One run, from the server's start to its end."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._dice, self._ledger = options, random.Random(options.seed), Ledger()
        self._site = Site(folder, options.front_ends)
        self._crowd = Crowd(self._site, self._ledger, options.seed)
        self._scene = Scene(self._site, self._ledger, self._dice, options.short)
        self._left: list[Fault] = []  # what the first round has not come to

    def __call__(self) -> bool:
        """Prints the table; whether it is good."""
        problems: list[str] = []
        try:
            self._start()
            self._crowd.start()
            time.sleep(CALM_S)
            self._rounds()
            self._ledger.windows[-1].ended = time.monotonic()
            problems += [f"{name} still waits for an answer" for name in self._crowd.stop()]
        finally:
            status = self._site.close()
        problems += [f"the server ended with status {status}"] if status else []
        problems += [f"the server left {path}" for path in self._site.temporary.iterdir()]
        return self._report(problems)

    def _start(self) -> None:
        site, began = self._site, time.monotonic()
        site.wait(site.ready, START_S, "the server's start")
        site.wait(lambda: "READY" in site.ask("GET", "/models/digest")[1], START_S, "the archive's worker")
        now = time.monotonic()
        site.slowness = max(1.0, (now - began) / START_TAKES_S)
        self._ledger.open(Window("none", now, now, cuts=False))

    def _rounds(self) -> None:
        """All faults in an order by chance, again and again until the time is over; with `--only` once."""
        options, first = self._options, True
        end = time.monotonic() + 60 * options.minutes
        chosen = [fault for fault in FAULTS if options.only in fault.name and (fault.short or not options.short)]
        while time.monotonic() < end and (first or not options.only):
            order = self._dice.sample(chosen, len(chosen))
            while order and time.monotonic() < end:
                self._one(order.pop())
            self._left, first = (order if first else self._left), False

    def _one(self, fault: Fault) -> None:
        """Lets a fault happen and waits until all is well again."""
        now = time.monotonic()
        window = Window(fault.name, now, now, fault.cuts)
        self._ledger.open(window)
        print(f"{fault.name} …", flush=True)
        try:
            fault.injure(self._scene)
        except Skipped as reason:
            print(f"  skipped: {reason}", flush=True)
            window.fault += " (skipped)"
        except Exception as error:  # noqa: BLE001 - it belongs into the table
            window.problem = f"{type(error).__name__}: {error}"
            self._scene.onset()
        deadline = time.monotonic() + WAIT_S * self._site.slowness
        while not self._ledger.recovered(time.monotonic(), QUIET_S) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _report(self, problems: list[str]) -> bool:
        lines, good = table(self._ledger, self._options.recovery)
        print("\n".join(["", *lines, ""]))
        print(f"seed {self._options.seed}; {self._site.starts} starts; a recovery may take {self._options.recovery:g} s")
        print("\n".join([*self._site.endings, *problems, *examples(self._ledger.windows)]))
        if self._left:
            print("not reached in time: " + ", ".join(fault.name for fault in self._left))
        return good and not problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.tools.dev.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 999_999))
    parser.add_argument("--short", action="store_true", help="smaller amounts, and without what takes long: for CI")
    parser.add_argument("--recovery", type=float, default=3.0, metavar="SECONDS", help="longest recovery that is good")
    parser.add_argument("--front-ends", type=int, default=2, metavar="N", help="processes that answer HTTP")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose names hold this")
    parser.add_argument("--folder", type=Path, help="where the server's folder is made and kept, with its log")
    options = parser.parse_args(arguments)
    print(f"chaos: {options.minutes:g} minutes, seed {options.seed}", flush=True)
    faulthandler.dump_traceback_later(60 * options.minutes + START_S + OVERTIME_S, exit=True, file=2)
    try:
        with tempfile.TemporaryDirectory(prefix="jitney-chaos-", dir=options.folder) as folder:
            try:
                good = Run(options, Path(folder))()
            finally:
                if options.folder:
                    (Path(folder) / "server.log").rename(options.folder / "server.log")
    finally:
        faulthandler.cancel_dump_traceback_later()
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
