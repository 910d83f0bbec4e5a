"""`jitney check`: what is wrong with a repository or an archive, found without serving it."""
