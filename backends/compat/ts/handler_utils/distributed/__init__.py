"""Models that are too large for one device."""
