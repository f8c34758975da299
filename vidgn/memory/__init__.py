"""Memory of a run: predicted without a GPU, measured on one, and fitted to one."""
