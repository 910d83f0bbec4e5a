"""Pre-processing outside of the handler. jitney's own, in the built-in image handlers, needs no module from here."""
