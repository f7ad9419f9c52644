"""A run's own folder and everything about it: records, results, lock, groups, lists of runs, W&B beside it."""
