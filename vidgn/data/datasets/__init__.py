"""Which videos and labels there are: annotation files and folders in, a manifest out."""
