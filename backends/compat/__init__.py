"""Modules that users' code imports by other names: `ts` and `triton_python_backend_utils`, importable in workers only."""
