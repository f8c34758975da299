"""A study judged by some of its tested videos."""

from dataclasses import replace

from vidgn.errors import ManifestError
from vidgn.report.read.study import Study


def restricted(study: Study, only: frozenset[str]) -> Study:
    """The study judged by some of the tested videos alone.

    Raises:
        ManifestError: none of them was tested in some run.
    """
    if any(cell.data_format == "coco" for cell in study.cells):
        raise ManifestError(
            f"{study.directory}: --only is for videos, which are right or wrong by themselves; AP is not"
        )
    cells = []
    for cell in study.cells:
        part = replace(cell, only=only)
        videos = part.videos() if cell.result else None
        if cell.result is None or videos is None:
            cells.append(replace(part, result=None))
            continue
        if not videos.ids:
            raise ManifestError(f"{cell.run_name}: none of its tested videos is in the list; give one with their names")
        counted = {"top1": videos.top(1), "top5": videos.top(5), "num_videos": len(videos.ids)}
        cells.append(replace(part, result={**cell.result, **counted}))
    return replace(study, cells=tuple(cells))
