"""Finding, reading and versioning models: config.pbtxt, .mar and plain folders become one frozen `ModelConfig`."""
