"""What a video is called, whatever folder and ending a copy of its data set gave it."""

import os


def stem_of(id: str) -> str:
    """The name of a video without its folders and ending; of a segment with its times."""
    file, found, times = id.rpartition("@")
    path, times = (file, f"@{times}") if found else (id, "")
    return os.path.splitext(os.path.basename(path))[0] + times
