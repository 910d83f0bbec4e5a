"""TorchServe's launcher: starts and stops the server of this machine from a program."""

from __future__ import annotations

from jitney.server.launcher import register_model, register_model_with_params, start, stop

__all__ = ["register_model", "register_model_with_params", "start", "stop"]
