"""What the files say: arms, gaps, intervals."""
