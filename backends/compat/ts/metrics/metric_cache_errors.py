"""What goes wrong with metrics; each error is one of Python's own kinds as well."""

from __future__ import annotations

import yaml


class GeneralMetricsCacheError(Exception):
    """Anything else."""


class MetricsCacheIOError(OSError):
    """A file cannot be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """A file is no YAML."""


class MetricsCacheTypeError(TypeError):
    """An argument or a declaration is not of the expected type."""


class MetricsCacheValueError(ValueError):
    """An argument or a declaration has a value that cannot be."""


class MetricsCacheKeyError(KeyError):
    """No metric of this name and type was declared, or a declaration lacks a key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would show it in quotes
