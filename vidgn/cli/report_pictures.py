"""Frames of tested videos for a report's page, where the videos are still there."""

import os
from collections.abc import Sequence
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


def pictures_of(wanted: Sequence[tuple[Path, str]]) -> dict[tuple[Path, str], bytes]:
    """(run's directory, id of a video) -> a JPEG of four frames, of the videos that there are."""
    from vidgn.data.datasets.listing import is_image

    paths = {(run_dir, id): _paths(run_dir).get(id) for run_dir, id in wanted}
    there = {key: path for key, path in paths.items() if path and os.path.exists(path) and not is_image(path)}
    if not there:
        return {}
    from vidgn.data.tools.contact_sheet import contact_sheets

    made = contact_sheets(dict.fromkeys(there.values()))
    return {key: made[path] for key, path in there.items() if path in made}
