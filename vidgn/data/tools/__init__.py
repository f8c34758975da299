"""What looks at or rewrites whole data sets: probe, index, transcode."""
