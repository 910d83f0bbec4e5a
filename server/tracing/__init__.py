"""Traces of requests: which are made (`sampling`, `settings`), of what (`record`), where they go (`collector` and its sinks)."""
