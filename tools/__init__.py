"""Building the shipped models, archiving, benchmarking, simulating."""
