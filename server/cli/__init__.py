"""The commands: `jitney serve`, TorchServe's `torchserve`, and what starts a server in the background."""
