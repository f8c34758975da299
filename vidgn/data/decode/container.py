"""Opening a file with FFmpeg so that nothing but that file is read, and nothing but a video is accepted."""

import os
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import av.error
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from vidgn.data.decode.base import MAX_PIXELS, OUT_OF_MEMORY, decode_error
from vidgn.errors import DecodeError

# Demuxers that read exactly the file they are given; play lists and scripts (concat, hls, dash) open others.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,mjpeg,mxf,nut,ivf,"
    "obu,av1,vc1,vvc,gif,apng,webp_anim,dv,yuv4mpegpipe,rm,wtv,pva"
)
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", **_LIMITS}
# Of bytes that come one after another: little is looked at before the first frame, and nothing else is opened.
INCOMING_OPTIONS = {"format_whitelist": _FORMATS, "probesize": "500000", "analyzeduration": "1000000", **_LIMITS}
# MP4's own tables say all that decoding its first frames would tell, and need no parser: a third of the time to open.
_MP4_OPTIONS = {**_OPTIONS, "codec_whitelist": "none", "fflags": "nofillin+noparse"}


def libraries() -> str:
    """The FFmpeg that PyAV has."""
    return f"FFmpeg {av.ffmpeg_version_info}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def open_container(path: str, timeout_seconds: float | None = None) -> tuple[InputContainer, VideoStream]:
    """A local file, demuxed by nothing but a known video format, and its best video stream, one thread.

    Raises:
        DecodeError: the video can't be read.
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
    except av.error.ArgumentError:  # what a format outside the list gives
        raise decode_error(
            path,
            "is no video in a container that is read (MP4, Matroska, AVI, MPEG and kin); write it as one, for example "
            "with ffmpeg -i OLD -c copy NEW.mkv",
        ) from None
    except (av.error.FFmpegError, ValueError) as error:
        raise decode_error(path, f"is no video that can be read ({reason_of(error)}); fetch it again") from None


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Streams of moving pictures that FFmpeg has a decoder for, the one to read first; cover art is none.

    That is the one marked as the default, of several the one with the most pixels, of several the first.
    """

    def order(stream: VideoStream) -> tuple[bool, int, int]:
        context = stream.codec_context
        is_default = bool(stream.disposition & Disposition.default)
        return not is_default, -context.width * context.height, stream.index

    found = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None  # pyright: ignore[reportUnnecessaryComparison]  # av's stub errs
        and not stream.disposition & Disposition.attached_pic
    ]
    return sorted(found, key=order)


def _video_stream(container: InputContainer, path: str) -> VideoStream:
    if streams := video_streams(container):
        return streams[0]
    found = ", ".join(_kind_of(stream) for stream in container.streams) or "no stream"
    container.close()
    raise decode_error(path, f"has no video stream that can be decoded (found: {found})")


def _kind_of(stream: Stream) -> str:
    is_picture = stream.type == "video" and stream.disposition & Disposition.attached_pic
    return "cover picture" if is_picture else str(stream.type)


def _is_mp4(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8)[4:] == b"ftyp"
    except OSError as error:
        raise decode_error(path, f"can't be opened ({error.strerror})") from None


@contextmanager
def errors_named(path: str) -> Generator[None]:
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


_MATRIX_BYTES = 36
_MATRIX_OFFSETS = {b"mvhd": 36, b"tkhd": 40}  # from the version on, in version 0
_IDENTITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_MAX_HEADER = 64 * 2**20
_MATROSKA_HEADER = 2**16
_MATROSKA_PROJECTION = b"\x76\x70"


def may_be_rotated(path: str, format_name: str) -> bool:
    """True means: look at a decoded frame. False: no header of a MOV, MP4 or Matroska file turns the picture.

    Other containers have no such header. An orientation in the coded pictures (an SEI message) is not looked for.
    """
    if format_name.startswith("mov,"):
        with open(path, "rb") as file:
            return any(matrix != _IDENTITY for matrix in _matrices(_movie_header(file)))
    if format_name.startswith("matroska"):
        with open(path, "rb") as file:
            return _MATROSKA_PROJECTION in file.read(_MATROSKA_HEADER)
    return False


def _movie_header(file: BinaryIO) -> bytes:
    """The payload of the `moov` box (ISO/IEC 14496-12), empty if there is none."""
    end = os.fstat(file.fileno()).st_size
    position = 0
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        body = 8
        if size == 1 and len(header) == 16:
            size, body = struct.unpack(">Q", header[8:])[0], 16
        if size == 0:
            size = end - position
        if kind == b"moov":
            file.seek(position + body)
            return file.read(min(size - body, _MAX_HEADER))
        if size < body:
            return b""
        position += size
    return b""


def _matrices(movie: bytes) -> Iterator[bytes]:
    """The display matrices of the movie (`mvhd`) and of its tracks (`tkhd`), which are multiplied."""
    for kind, offset in _MATRIX_OFFSETS.items():
        place = movie.find(kind)
        while place >= 0:
            is_long = movie[place + 4 : place + 5] == b"\x01"  # version 1 has times and duration of 8 bytes
            start = place + 4 + offset + (12 if is_long else 0)
            matrix = movie[start : start + _MATRIX_BYTES]
            if len(matrix) == _MATRIX_BYTES:
                yield matrix
            place = movie.find(kind, place + 4)
