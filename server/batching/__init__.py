"""Filling batches: `policy` and `queue` decide (pure), `dispatch` acts (threads)."""
