"""A study's files, read."""
