"""Frames of tested videos for a report's page, where the videos are still there."""

import os
from functools import cache
from pathlib import Path

from vidgn.errors import VidgnError


@cache
def _paths(run_dir: Path) -> dict[str, str]:
    """Id -> path of the videos that a run was tested on."""
    from vidgn.runs.kept_rows import kept_rows

    try:
        rows = kept_rows(run_dir, "val")
    except VidgnError:
        return {}
    return {} if rows is None else {(row := rows[i]).id: row.path for i in range(len(rows))}


@cache
def picture_of(run_dir: Path, id: str) -> bytes | None:
    """A JPEG of four frames, None where there are none to be had."""
    path = _paths(run_dir).get(id)
    if path is None or not os.path.exists(path):
        return None
    from vidgn.data.datasets.listing import is_image
    from vidgn.data.tools.contact_sheet import contact_sheet

    return None if is_image(path) else contact_sheet(path)
