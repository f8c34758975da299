"""What was found, as text, tables and pictures."""
