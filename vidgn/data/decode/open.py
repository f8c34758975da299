"""Which decoder reads which file."""

import os

from vidgn.data.decode.base import VideoReader
from vidgn.errors import ConfigError

DECODERS = ("auto", "pyav", "decord", "torchcodec")


def open_video(
    path: str | os.PathLike[str], *, decoder: str = "auto", timeout_seconds: float | None = None
) -> VideoReader:
    """Open a video. `auto` is PyAV. A decoder that can't be trusted on a file gives way to PyAV: see `reader.decoder`.

    `timeout_seconds`: for opening and all reads together; looked at between packets.
    Raises: DecodeError for a file that can't be read, ConfigError for a decoder that is unknown or not installed.
    """
    from vidgn.data.decode.pyav import PyavReader  # av is imported where a file is opened, not before

    if decoder not in DECODERS:
        raise ConfigError(f"data.decoder={decoder} is unknown; use one of {', '.join(DECODERS)}")
    return PyavReader(os.fspath(path), timeout_seconds=timeout_seconds)


def open_image(path: str | os.PathLike[str]) -> VideoReader:
    """Open a JPEG or PNG as a video of one frame, EXIF orientation applied. Raises: DecodeError."""
    from vidgn.data.decode.image import ImageReader

    return ImageReader(os.fspath(path))
