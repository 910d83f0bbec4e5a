"""What jitney's developers run: demonstrations, builders, comparisons. Not in the wheel."""
