"""Opening a file with FFmpeg so that nothing but that file is read, and nothing but a video is accepted."""

import av
import av.error
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from vidgn.data.decode.base import MAX_PIXELS, decode_error

# Demuxers that read exactly the file they are given; play lists and scripts (concat, hls, dash) open others.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,mjpeg,mxf,nut,ivf,"
    "obu,gif"
)
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", **_LIMITS}


def open_container(path: str, timeout_seconds: float | None = None) -> tuple[InputContainer, VideoStream]:
    """A local file, demuxed by nothing but a known video format, and its first real video stream, one thread.

    Raises: DecodeError.
    """
    try:
        container = av.open(
            "file:" + path, options=_OPTIONS, metadata_errors="ignore", timeout=timeout_seconds, mode="r"
        )
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        raise decode_error(path, f"is no video that can be read ({reason_of(error)}); fetch it again") from None
    streams = [
        s
        for s in container.streams.video
        if s.codec_context is not None and not s.disposition & Disposition.attached_pic
    ]
    if not streams:
        found = ", ".join(s.type for s in container.streams) or "no stream"
        container.close()
        raise decode_error(path, f"has no video stream that can be decoded (found: {found})")
    stream = streams[0]
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1
    stream.codec_context.options = dict(_LIMITS)
    return container, stream


def reason_of(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
