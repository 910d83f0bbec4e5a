"""Helpers around a handler: timing, streaming, micro-batches."""
