"""A clip from its plan to its pixels."""
