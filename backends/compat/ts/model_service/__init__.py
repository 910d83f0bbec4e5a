"""Base classes of the Multi Model Server's handlers, which TorchServe's oldest archives derive from."""

from . import model_service

__all__ = ["model_service"]
