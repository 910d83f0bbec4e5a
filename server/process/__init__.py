"""The process and its machine: cores, GPUs, environment, signals, threads, logs."""
