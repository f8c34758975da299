"""From the files of a study to tables and pictures."""
