"""What handlers' own tests import from TorchServe's unit tests: a context without a server, and a small model."""
