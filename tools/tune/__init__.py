"""`jitney tune`: tries settings of a model and writes the best into its config.pbtxt."""
