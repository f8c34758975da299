"""Training one cell: the loop, the step that everything shares, the tester, and the tasks they are given."""
