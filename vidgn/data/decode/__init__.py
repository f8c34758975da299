"""Which decoder reads which file."""

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidgn.data.decode.base import VideoReader
from vidgn.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from vidgn.data.decode.pyav import PyavReader

DECODERS = ("auto", "pyav", "decord", "torchcodec")
_REMEDY = {
    "decord": "pip install decord (Linux x86-64 only)",
    "torchcodec": "pip install 'vidgn[torchcodec]' and FFmpeg's shared libraries from your system",
}


def open_video(
    path: str | os.PathLike[str],
    *,
    decoder: str = "auto",
    timeout_seconds: float | None = None,
    openings: Sequence[str] = (),
) -> VideoReader:
    """Open a video. `auto` is PyAV. A decoder that can't be trusted on a file gives way to PyAV: see `reader.decoder`.

    Args:
        timeout_seconds: for opening and all reads together; looked at between packets, and by PyAV alone.
        openings: tables that `vidgn data index` has written; what they know is not looked for again.

    Raises:
        DecodeError: for a file that can't be read.
        ConfigError: for a decoder that is unknown or not installed.

    Example:
        >>> import vidgn
        >>> with vidgn.open_video("clip.mp4") as video:
        ...     frames_NHWC = video.read_frames([0, 5, 0])
        >>> len(frames_NHWC), bool((frames_NHWC[0] == frames_NHWC[2]).all())
        (3, True)
    """
    from vidgn.data.decode.openings import find, remember
    from vidgn.data.decode.pyav import PyavReader  # av is imported where a file is opened, not before

    if decoder not in DECODERS:
        raise ConfigError(f"data.decoder={decoder} is unknown; use one of {', '.join(DECODERS)}")
    name = os.fspath(path)
    known = find(openings, name)
    guide = PyavReader(name, timeout_seconds=timeout_seconds, known=known)
    if known is None:
        remember(name, guide.opening())
    if decoder in ("auto", "pyav"):
        return guide
    try:
        return taken_over(guide, decoder)
    except BaseException:
        guide.close()
        raise


def open_cached(
    path: str | os.PathLike[str],
    *,
    timeout_seconds: float | None,
    folder: str,
    limit_bytes: int,
    openings: Sequence[str] = (),
) -> VideoReader:
    """`open_video` of PyAV, whose frames are kept in `folder` the first time, while it holds less than `limit_bytes`.

    A quarter of the time is for that; a video of which it is not enough is read as it is.

    Raises:
        DecodeError: for a file that can't be read.
    """
    from vidgn.data.decode import cached
    from vidgn.data.decode.base import check_file

    name = check_file(path)
    file = cached.cache_file(folder, name)
    if kept := cached.cached(file, name):
        return kept
    if cached.has_room(file, folder, limit_bytes=limit_bytes):
        quarter = None if timeout_seconds is None else timeout_seconds / 4
        with (
            contextlib.suppress(DecodeError),
            open_video(path, timeout_seconds=quarter, openings=openings) as reader,
        ):
            cached.keep(file, folder, reader, limit_bytes=limit_bytes)
        if kept := cached.cached(file, name):
            return kept
    return open_video(path, timeout_seconds=timeout_seconds, openings=openings)


def check_installed(decoder: str) -> None:
    """Load the library of a decoder other than PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    from vidgn.data.decode.guided import READERS

    try:
        READERS[decoder].load()
    except (ImportError, OSError) as error:
        raise _not_loaded(decoder, error) from None


def _not_loaded(decoder: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"data.decoder={decoder} can't be loaded ({str(error).splitlines()[0]}); {_REMEDY[decoder]}, "
        "or use data.decoder=pyav"
    )


def taken_over(guide: "PyavReader", decoder: str) -> VideoReader:
    """`guide` taken over by a reader of `decoder`, or `guide` itself with the reason why.

    Raises:
        ConfigError: for a decoder that is not installed.
    """
    reason, reader = None, None
    try:
        from vidgn.data.decode.guided import READERS

        reason = READERS[decoder].distrust(guide)
        reader = None if reason else READERS[decoder](guide)
        reason = reason if reader is None else reader.disagreement()
    except (ImportError, OSError) as error:
        raise _not_loaded(decoder, error) from None
    except DecodeError as error:
        reason = str(error).removeprefix(f"{guide.path}: ")
    if reader is not None and reason is None:
        return reader
    guide.fallback_reason = reason
    return guide


def open_frames(path: str | os.PathLike[str]) -> VideoReader:
    """Open a folder of images named by number as a video.

    Raises:
        DecodeError: the folder holds no such frames.
    """
    from vidgn.data.decode.image import FramesReader

    return FramesReader(os.fspath(path))


def open_image(path: str | os.PathLike[str]) -> VideoReader:
    """Open a JPEG or PNG as a video of one frame, EXIF orientation applied.

    Raises:
        DecodeError: the video can't be read.
    """
    from vidgn.data.decode.image import ImageReader

    return ImageReader(os.fspath(path))
