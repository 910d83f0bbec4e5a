"""Loaded models and the way to them: validation, batching or scheduling, the response cache, ensembles."""
