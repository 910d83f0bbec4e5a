"""What runs tensors. Everything here is imported by worker processes; only `tensor`, `base` and `codecs` by the server."""
