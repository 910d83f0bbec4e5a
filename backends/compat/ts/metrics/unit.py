"""Units as handlers abbreviate them, and as TorchServe prints them."""

from __future__ import annotations


class Units:
    """`units` maps what handlers write to what is printed."""

    def __init__(self) -> None:
        self.units: dict[str | None, str] = {
            "ms": "Milliseconds",
            "s": "Seconds",
            "percent": "Percent",
            "count": "Count",
            "MB": "Megabytes",
            "GB": "Gigabytes",
            "kB": "Kilobytes",
            "B": "Bytes",
            "": "unit",
            None: "unit",
        }


_UNITS = Units().units


def unit_name(unit: str | None) -> str:
    """The printed name; units that TorchServe has no abbreviation for stay as they are."""
    return _UNITS.get(unit, str(unit))
