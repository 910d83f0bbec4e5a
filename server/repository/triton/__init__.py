"""Triton's model repository: `config.pbtxt`, versions, defaults, completion."""
