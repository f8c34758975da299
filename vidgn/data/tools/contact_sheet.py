"""A few frames of a video side by side, for a page."""

import io
import os
from collections.abc import Iterable

import numpy as np
from PIL import Image

from vidgn.data.decode import open_frames, open_video
from vidgn.data.decode.base import Box, ResolvedClip
from vidgn.data.loading.pool import Limits, map_in_workers
from vidgn.errors import DecodeError
from vidgn.processes import num_cores

_NUM_FRAMES, _HEIGHT = 4, 90
_SECONDS = 10.0


def contact_sheets(paths: Iterable[str]) -> dict[str, bytes]:
    """Path -> JPEG of four frames in a row, of the videos that can be read.

    They are read in processes of their own: a decoder that crashes takes no report with it.
    """
    limits = Limits(_SECONDS, 4096)
    outcomes = map_in_workers(_sheet, paths, workers=num_cores(), limits=limits, preload=(__name__,))
    return {outcome.item: outcome.value for outcome in outcomes if outcome.value is not None}


def _sheet(path: str) -> bytes | None:
    try:
        with open_frames(path) if os.path.isdir(path) else open_video(path, timeout_seconds=_SECONDS) as reader:
            width = max(2, round(reader.width * _HEIGHT / reader.height))
            numbers = tuple((2 * i + 1) * reader.num_frames // (2 * _NUM_FRAMES) for i in range(_NUM_FRAMES))
            whole = Box(0, 0, reader.height, reader.width)
            (frames_THWC,) = reader.read([ResolvedClip(numbers, whole, _HEIGHT, width, flip=False)])
    except DecodeError:
        return None
    return sheet_of(frames_THWC)


def sheet_of(frames_THWC: np.ndarray) -> bytes:
    """A JPEG of uint8 (T, H, W, 3) frames in a row."""
    sheet = Image.fromarray(np.ascontiguousarray(np.concatenate(list(frames_THWC), axis=1)))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=75)
    return out.getvalue()
