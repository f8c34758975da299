"""Opening a file with FFmpeg so that nothing but that file is read, and nothing but a video is accepted."""

from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.error
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from vidgn.data.decode.base import MAX_PIXELS, OUT_OF_MEMORY, decode_error
from vidgn.errors import DecodeError

# Demuxers that read exactly the file they are given; play lists and scripts (concat, hls, dash) open others.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,mjpeg,mxf,nut,ivf,"
    "obu,gif"
)
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", **_LIMITS}
# MP4's own tables say all that decoding its first frames would tell, and need no parser: a third of the time to open.
_MP4_OPTIONS = {**_OPTIONS, "codec_whitelist": "none", "fflags": "nofillin+noparse"}


def open_container(path: str, timeout_seconds: float | None = None) -> tuple[InputContainer, VideoStream]:
    """A local file, demuxed by nothing but a known video format, and its first real video stream, one thread.

    Raises: DecodeError.
    """
    container = _open(path, _MP4_OPTIONS if _is_mp4(path) else _OPTIONS, timeout_seconds)
    stream = _video_stream(container, path)
    # Some codecs keep their size to themselves until a frame is decoded, and fragmented files have no tables in front.
    if not stream.codec_context.width or not len(stream.index_entries):
        container.close()
        container = _open(path, _OPTIONS, timeout_seconds)
        stream = _video_stream(container, path)
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1
    stream.codec_context.options = dict(_LIMITS)
    return container, stream


def _open(path: str, options: dict[str, str], timeout_seconds: float | None) -> InputContainer:
    try:
        return av.open("file:" + path, options=options, metadata_errors="ignore", timeout=timeout_seconds, mode="r")
    except MemoryError:
        raise decode_error(path, OUT_OF_MEMORY) from None
    except (av.error.FFmpegError, ValueError) as error:
        raise decode_error(path, f"is no video that can be read ({reason_of(error)}); fetch it again") from None


def _video_stream(container: InputContainer, path: str) -> VideoStream:
    """The first stream of moving pictures that FFmpeg has a decoder for; cover art is none."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    found = ", ".join(stream.type for stream in container.streams) or "no stream"
    container.close()
    raise decode_error(path, f"has no video stream that can be decoded (found: {found})")


def _is_mp4(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8)[4:] == b"ftyp"
    except OSError as error:
        raise decode_error(path, f"can't be opened ({error.strerror})") from None


@contextmanager
def errors_named(path: str) -> Iterator[None]:
    """Turns FFmpeg's errors into DecodeErrors that name the file."""
    try:
        yield
    except DecodeError:
        raise
    except MemoryError:
        raise decode_error(path, OUT_OF_MEMORY) from None
    except (av.error.FFmpegError, ValueError) as error:
        raise decode_error(path, f"can't be read ({reason_of(error)}); fetch it again") from None


def reason_of(error: BaseException) -> str:
    """What FFmpeg says, in one line."""
    if isinstance(error, av.error.ExitError):
        return "reading it took longer than the time limit"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
