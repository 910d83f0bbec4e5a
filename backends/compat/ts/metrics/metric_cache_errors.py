"""What goes wrong with metrics."""


class MetricsCacheError(Exception):
    """Base of the metrics cache's errors."""


class MetricsCacheKeyError(MetricsCacheError):
    """No metric of this name and type was declared."""


class MetricsCacheTypeError(MetricsCacheError):
    """A metric's type or declaration is not of the expected kind."""


class MetricsCachePyTypeError(MetricsCacheTypeError):
    """An argument has the wrong Python type."""
