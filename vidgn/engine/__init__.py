"""One experiment on any hardware: geometry, training, evaluation, checkpoints, memory."""
