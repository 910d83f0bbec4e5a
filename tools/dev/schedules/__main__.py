"""`python -m jitney.tools.dev.schedules --schedules 100000 --seed 1`: as many random schedules, each from a seed of its own.

Each runs the server's own code on a simulated machine (`world`), in virtual time. What the server did wrong is printed with
its seed; `--seed N --schedules 1` runs that schedule again, exactly, and prints what happened in it. Status 1 where there was
anything.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import traceback

from .plan import plan
from .world import World

#: Findings after which a run ends: one defect breaks many schedules.
MOST = 20


def run(seed: int, trace: list[str] | None = None) -> BaseException | None:
    """Runs the schedule of this seed; what went wrong in it, None where all was right."""
    try:
        World(plan(seed), trace).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its seed
        return error
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first; the others follow it (default: 1)")
    options = parser.parse_args()
    began, found, done = time.monotonic(), 0, 0
    with contextlib.suppress(KeyboardInterrupt):  # what was done until then is told
        for seed in range(options.seed, options.seed + options.schedules):
            found += not _told(seed, detailed=options.schedules == 1)
            done += 1
            if found == MOST:
                break
    seconds = time.monotonic() - began
    print(f"{done} schedules in {seconds:.0f} s ({60 * done / seconds:.0f} a minute), {found} with a violation")
    return 1 if found else 0


def _told(seed: int, *, detailed: bool) -> bool:
    """Runs a schedule and prints what was wrong in it, `detailed` also all that happened; whether it was right."""
    trace: list[str] | None = [] if detailed else None
    error = run(seed, trace)
    if trace is not None:
        print(plan(seed), *trace, sep="\n")
    if error is None:
        return True
    print(f"SEED={seed} SCHEDULES=1: {type(error).__name__}: {error}", flush=True)
    if detailed:
        traceback.print_exception(error)
    return False


if __name__ == "__main__":
    sys.exit(main())
