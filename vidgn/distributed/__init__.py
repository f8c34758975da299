"""Ranks: starting them, meeting, what launchers and signals say, and who waits for whom."""
