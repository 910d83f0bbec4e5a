"""The version of TorchServe whose handler API this package offers."""

__version__ = "0.12.0"
