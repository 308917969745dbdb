"""Pure functions of tensors: the low-rank solver, moments, rounding, pruning, pivots."""
