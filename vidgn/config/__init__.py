"""What an experiment is: typed dataclasses (schema), and Hydra's composition into them (compose)."""
