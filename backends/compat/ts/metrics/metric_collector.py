"""`python -m ts.metrics.metric_collector --gpu N`: the machine's figures, and the memory of the processes named on stdin."""

from __future__ import annotations

import argparse
import logging
import sys

from . import system_metrics
from .process_memory_metric import check_process_mem_usage

__all__ = ["check_process_mem_usage", "system_metrics"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", type=int, help="how many GPUs to look at")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    system_metrics.collect_all(system_metrics, arguments.gpu)
    check_process_mem_usage(sys.stdin)


if __name__ == "__main__":
    main()
