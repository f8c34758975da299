"""Worker processes, prefetching and batches."""
