"""One run's directory: its identity, lock, checkpoints, metrics and progress."""
