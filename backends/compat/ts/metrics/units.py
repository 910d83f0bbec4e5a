"""Units as handlers abbreviate them, and as TorchServe prints them."""

from __future__ import annotations

UNITS = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "kB": "Kilobytes",
    "GB": "Gigabytes",
    "B": "Bytes",
    "": "unit",
}


def unit_name(unit: str) -> str:
    """The printed name; units that TorchServe has no abbreviation for stay as they are."""
    return UNITS.get(unit, unit)
