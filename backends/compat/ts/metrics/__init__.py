"""Metrics that handlers emit."""
