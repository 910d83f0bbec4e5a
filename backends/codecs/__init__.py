"""Codecs turn one TorchServe-style request into tensors before the batch, and tensors into its answer after it."""
