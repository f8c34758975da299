"""Frames to a file: H.264 in whatever container the name asks for."""

from fractions import Fraction

import av
import numpy as np


def write_video(
    path: str,
    frames_THWC: np.ndarray,
    *,
    fps: int | Fraction = 25,
    crf: int = 18,
    preset: str = "veryfast",
    keyframe_distance: int = 250,
    format: str | None = None,
) -> None:
    """Encodes RGB frames, uint8 (T, H, W, 3) with even H and W, as H.264 (yuv420p, closed GOP) on one thread.

    `crf`: x264's quality, 0 (lossless) to 51. `format`: container, where the extension of `path` does not say it.
    """
    num_frames, height, width, channels = frames_THWC.shape
    assert num_frames
    assert channels == 3
    with av.open(path, "w", format=format) as container:
        options = {"crf": str(crf), "preset": preset, "g": str(keyframe_distance)}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
