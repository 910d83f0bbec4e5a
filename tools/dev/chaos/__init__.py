"""Faults of every kind, one after another, under load from clients that know each right answer: `make chaos`."""
