"""Decoded frames, kept in files: the bytes that decoding gives, for the price of reading them.

A file a video, written beside its place and moved there when it is whole, so that what is there is whole whoever was
killed. Its name says the video (path, size, time of change) and FFmpeg: another one of these is another file. Processes
of one machine share them through the kernel's page cache.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidgn.data.decode.base import Box, FrameSink, VideoReader
from vidgn.data.decode.container import libraries
from vidgn.errors import DecodeError

_LEFT_SECONDS = 3600.0  # after which an unfinished file is of a process that was killed
_COUNT_EVERY = 64  # files written, before what lies there is counted again: others write too
_counted: dict[str, tuple[int, int]] = {}  # folder -> (bytes, files written since they were counted)
_not_kept = set[Path]()  # what has failed once in this process


class CachedReader(VideoReader):
    """See VideoReader; `decoder` is the one that the frames came out of."""

    def __init__(self, path: str, frames_THWC: np.ndarray, told: dict[str, Any]) -> None:
        super().__init__(path)
        self._frames_THWC, self._told = frames_THWC, told
        self.height, self.width = frames_THWC.shape[1:3]
        self.decoder, self.nominal_fps = str(told["decoder"]), float(told["nominal_fps"])

    @property
    def num_frames(self) -> int:
        return len(self._frames_THWC)

    def shown_seconds(self) -> list[float]:
        return list(self._told["shown_seconds"])

    def close(self) -> None:
        del self._frames_THWC

    def _deliver(self, wanted: list[int], boxes: Sequence[Box], sink: FrameSink) -> None:
        for number in wanted:
            for box in boxes:
                if sink.wants(number, box):
                    rows = slice(box.top, box.top + box.height)
                    sink.put(number, box, self._frames_THWC[number, rows, box.left : box.left + box.width])


def cache_file(folder: str, path: str) -> Path:
    """Where the frames of the video at `path` are kept as it is now."""
    found = os.stat(path)
    name = "\0".join((os.path.realpath(path), str(found.st_size), str(found.st_mtime_ns), libraries()))
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    return Path(folder) / digest[:2] / f"{digest}.npy"


def cached(file: Path, path: str) -> CachedReader | None:
    """The reader of a kept file; None where there is none, or none that can be read."""
    try:
        told = json.loads(file.with_suffix(".json").read_text())
        frames_THWC = np.load(file, mmap_mode="r", allow_pickle=False)
        return CachedReader(path, frames_THWC, told)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def has_room(file: Path, folder: str, *, limit_bytes: int) -> bool:
    """Whether it may be worth the try to keep a video there."""
    return file not in _not_kept and _size(folder) < limit_bytes


def keep(file: Path, folder: str, reader: VideoReader, *, limit_bytes: int) -> None:
    """Write all frames of `reader` to `file`, unless more than `limit_bytes` would lie in `folder`.

    Nothing is written where a frame can't be read or the folder can't be written, nor tried again by this process.
    """
    partial = file.with_name(f".{file.stem}.{os.getpid()}.part")
    try:
        shape = (reader.num_frames, reader.height, reader.width, 3)
        if _size(folder) + math.prod(shape) > limit_bytes:
            _not_kept.add(file)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        seconds = reader.shown_seconds()  # first: reading may show that they are not those of the pictures
        frames_THWC = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        with open(partial, "r+b") as allocated:  # else a disk that fills up kills who writes to the map
            os.posix_fallocate(allocated.fileno(), 0, partial.stat().st_size)
        reader.read_all(frames_THWC)
        frames_THWC.flush()
        told = {
            "decoder": reader.decoder,
            "nominal_fps": reader.nominal_fps,
            "shown_seconds": seconds,
            "path": os.path.realpath(reader.path),
        }
        text = partial.with_suffix(".text.part")
        text.write_text(json.dumps(told))
        os.replace(text, file.with_suffix(".json"))
        os.replace(partial, file)
    except (OSError, DecodeError):  # of a damaged video, or one whose header lies about its size, too
        _not_kept.add(file)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        return
    size, written = _counted[folder]
    _counted[folder] = size + math.prod(shape), written + 1


def _size(folder: str) -> int:
    """Bytes in the folder, as far as this process knows; files that a killed process left are removed."""
    size, written = _counted.get(folder, (0, _COUNT_EVERY))
    if written >= _COUNT_EVERY:
        size = 0
        for parent, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    found = os.stat(os.path.join(parent, name))
                    if name.endswith(".part") and time.time() - found.st_mtime > _LEFT_SECONDS:
                        os.unlink(os.path.join(parent, name))
                    else:
                        size += found.st_size
        _counted[folder] = size, 0
    return size
