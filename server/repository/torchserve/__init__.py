"""TorchServe's model archives: fetching, unpacking, their configuration and their handlers."""
