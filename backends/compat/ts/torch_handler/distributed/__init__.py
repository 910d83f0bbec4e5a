"""Base classes of handlers for models that are too large for one device."""
