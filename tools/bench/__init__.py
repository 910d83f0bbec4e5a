"""`jitney bench`: load, measurement and theory, beside one another."""
