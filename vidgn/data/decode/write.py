"""Frames to a file: H.264 in whatever container the name asks for."""

import av
import numpy as np

# Without x264's macroblock tree: with it the same small pictures give other bytes now and then.
_X264 = {"crf": "18", "preset": "veryfast", "g": "250", "x264-params": "mbtree=0"}


def write_video(path: str, frames_THWC: np.ndarray, *, fps: int = 25) -> None:
    """Encodes RGB frames, uint8 (T, H, W, 3) with even H and W, as H.264 (yuv420p, closed GOP) on one thread.

    The same frames give the same bytes.
    """
    num_frames, height, width, channels = frames_THWC.shape
    assert num_frames
    assert channels == 3
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=dict(_X264))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
