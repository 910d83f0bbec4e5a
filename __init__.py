"""jitney: a model server that leaves when it is full, or when its first passenger has waited long enough."""

__version__ = "0.1.0"
