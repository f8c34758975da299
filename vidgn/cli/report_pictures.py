"""Frames of videos for a report's page, where the videos are still there."""

import os
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from vidgn.data.decode.base import VideoReader
from vidgn.errors import VidgnError
from vidgn.report.show.page import Pictures

_NUM_CLIPS = 8
_NUM_OPENED = 40


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


@cache  # they stay the same while a page is served
def training_clips(run_dir: Path) -> list[tuple[str, bytes]]:
    """(class, JPEG of four frames) of a run's first training clips, cut, scaled and flipped as the network saw them."""
    import torch

    from vidgn.config.compose import load_run_config
    from vidgn.data.loading.batches import train_batches
    from vidgn.data.tools.contact_sheet import sheet_of
    from vidgn.runs.kept_rows import kept_rows

    try:
        config, rows = load_run_config(run_dir), kept_rows(run_dir, "train")
        if rows is None or not os.path.exists(rows[0].path) or config.model.detector:  # whose images are no clips
            return []
        data = replace(config.data, workers=1)
        with train_batches(
            rows,
            data,
            seed=config.seed,
            frames=config.frames,
            stride=config.stride,
            positions=[range(_NUM_CLIPS)],
            slots_per_step=config.gpus * config.clips_per_gpu,
        ) as batches:
            batch = next(batches)
    except VidgnError:
        return []
    frames = torch.linspace(0, config.frames - 1, min(4, config.frames)).round().long()
    labels = [rows.classes[label] for label in batch.label_N.tolist()]
    clips = batch.clip_NTHWC[:, frames].numpy()
    return [(label, sheet_of(clip_THWC)) for label, clip_THWC in zip(labels, clips, strict=True)]


def described_set(run_dir: Path) -> str:
    """Lengths, frame rates and sizes of some of the videos that a run was tested on, in a sentence."""
    from vidgn.data.datasets.listing import is_image
    from vidgn.data.decode import open_video

    paths = list(_paths(run_dir).values())
    found: list[tuple[int, float, str]] = []
    for path in paths[:: max(1, len(paths) // _NUM_OPENED)]:
        if is_image(path):
            continue
        with suppress(VidgnError), open_video(path) as reader:
            found.append((reader.num_frames, _rate(reader), f"{reader.width} × {reader.height}"))
    if not found:
        return ""
    frames, rates, sizes = zip(*found, strict=True)
    parts = [_span("frames", frames)]
    if all(rates):
        parts.append(_span("seconds", [n / rate for n, rate in zip(frames, rates, strict=True)]))
        parts.append(_span("frames a second", rates))
    common = Counter(sizes).most_common(1)[0]
    others = f" in {common[1]} of them" if common[1] < len(found) else ""
    return f"Of the videos tested {len(found)} were opened: {', '.join(parts)}, {common[0]} pixels{others}."


def _rate(reader: VideoReader) -> float:
    """Frames a second, by when they are shown; as the container says where it does not say that."""
    seconds = reader.shown_seconds()
    lasts = seconds[-1] - seconds[0] if len(seconds) > 1 else 0.0
    return (len(seconds) - 1) / lasts if lasts > 0 else reader.nominal_fps


def _span(unit: str, values: Sequence[float]) -> str:
    low, middle, high = (f"{v:.3g}" for v in (min(values), statistics.median(values), max(values)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit} (median {middle})"


PICTURES = Pictures(pictures_of, training_clips, described_set)
