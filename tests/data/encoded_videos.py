"""Small videos of every kind that comes along, encoded on the spot. Each frame differs from every other one."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM_FRAMES, HEIGHT, WIDTH, FPS = 40, 64, 96, 25


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A textured picture that drifts and brightens from frame to frame."""
    y, x = np.mgrid[:height, :width]
    wave = 60 * np.sin((x + 3 * number) / 7) + 50 * np.cos((y - 2 * number) / 5)
    block = 40 * ((x // 8 + y // 8 + number) % 2)
    channels = [70 + wave + block + number, 90 + 0.7 * wave + number, 120 - 0.5 * wave + block]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def encode(
    path: Path,
    codec: str,
    *,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    pts_of: Callable[[int], int] = lambda number: number,
    gop: int = 12,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    rotation: int = 0,
    colorspace: int | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """NUM_FRAMES frames with `codec`; frame i is shown at pts_of(i) / FPS seconds."""
    height, width = size
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = pts_of(number)
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_from(source: Path, path: Path, *, first_keyframe: int = 0, shift_seconds: float = 0.0, skip: int = 0) -> Path:
    """Packets of `source` from its n-th keyframe on, none re-encoded, what is shown shifted; as a trim leaves them.

    `skip`: so many frames before time zero: a container with edit lists hides them.
    """
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        packets = [packet for packet in old.demux(stream) if packet.size]
        starts = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        packets = packets[starts[first_keyframe] :]
        copy = new.add_stream_from_template(stream)
        zero = sorted(packet.pts for packet in packets)[skip]
        shift = round(shift_seconds / stream.time_base) - zero
        for packet in packets:
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            packet.stream = copy
            new.mux(packet)
    return path


_X264 = {"preset": "veryfast"}


def _h264(path: Path, *, open_gop: bool = False, **more) -> Path:
    params = f"open-gop={int(open_gop)}:bframes=3:b-pyramid=normal:scenecut=0:b-adapt=0"
    return encode(path, "libx264", options={**_X264, "x264-params": params}, **more)


def _hevc(path: Path, *, open_gop: bool, **more) -> Path:
    params = f"open-gop={int(open_gop)}:bframes=3:keyint=12:min-keyint=12:scenecut=0:b-adapt=0:log-level=none:pools=1"
    return encode(path, "libx265", options={"preset": "ultrafast", "x265-params": params}, **more)


def _trim(folder: Path, name: str, *, open_gop: bool, skip: int) -> Path:
    source = _h264(folder / f"source_{name}", open_gop=open_gop)
    return copy_from(source, folder / name, first_keyframe=1, skip=skip)


# name -> writes the file into a folder
KINDS: dict[str, Callable[[Path], Path]] = {
    "h264_closed": lambda d: _h264(d / "h264_closed.mp4"),
    "h264_open": lambda d: _h264(d / "h264_open.mp4", open_gop=True),
    "h264_fragmented": lambda d: _h264(
        d / "fragmented.mp4", container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "h264_avi": lambda d: _h264(d / "h264.avi"),
    "h264_ts": lambda d: _h264(d / "h264_ts.ts"),
    "h264_variable_rate": lambda d: _h264(d / "variable.mp4", pts_of=lambda n: n * 3 + n % 3 + (n > 20) * 9),
    "h264_rotated": lambda d: _h264(d / "rotated.mp4", rotation=90),
    "h264_upside_down": lambda d: _h264(d / "upside_down.mp4", rotation=180),
    "h264_bt709": lambda d: _h264(d / "bt709.mp4", colorspace=1),
    "h264_422": lambda d: _h264(d / "yuv422p.mp4", pix_fmt="yuv422p"),
    "h264_444": lambda d: _h264(d / "yuv444p.mp4", pix_fmt="yuv444p"),
    "h264_10bit": lambda d: _h264(d / "yuv420p10.mp4", pix_fmt="yuv420p10le"),
    "h264_full_range": lambda d: _h264(d / "yuvj420p.mp4", pix_fmt="yuvj420p"),
    "h264_odd_size": lambda d: _h264(d / "odd.mp4", pix_fmt="yuv444p", size=(63, 95)),
    "h264_late_start": lambda d: copy_from(_h264(d / "early.mp4"), d / "late.mkv", shift_seconds=8.33),
    "h264_edit_list": lambda d: _trim(d, "edit_list.mp4", open_gop=False, skip=5),
    "h264_open_trim": lambda d: _trim(d, "open_trim.mp4", open_gop=True, skip=0),
    "h264_open_edit_list": lambda d: _trim(d, "open_edit_list.mp4", open_gop=True, skip=6),
    "hevc_closed": lambda d: _hevc(d / "hevc_closed.mp4", open_gop=False),
    "hevc_open": lambda d: _hevc(d / "hevc_open.mp4", open_gop=True),
    "hevc_open_trim": lambda d: copy_from(
        _hevc(d / "hevc_source.mp4", open_gop=True), d / "hevc_trim.mp4", first_keyframe=1
    ),
    "vp9": lambda d: encode(d / "vp9.webm", "libvpx-vp9", options={"cpu-used": "8", "auto-alt-ref": "1"}),
    "vp9_mp4": lambda d: encode(d / "vp9.mp4", "libvpx-vp9", options={"cpu-used": "8", "lag-in-frames": "10"}),
    "av1": lambda d: encode(d / "av1.mp4", "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4": lambda d: encode(d / "mpeg4.mp4", "mpeg4", options={"bf": "2"}),
    "mpeg4_avi": lambda d: encode(d / "mpeg4.avi", "mpeg4"),
    "mpeg4_b_frames_avi": lambda d: encode(d / "mpeg4_b.avi", "mpeg4", options={"bf": "2"}),
    "mpeg2": lambda d: encode(d / "mpeg2.mpg", "mpeg2video", options={"bf": "2"}),
    "mjpeg": lambda d: encode(d / "mjpeg.avi", "mjpeg", pix_fmt="yuvj420p"),
}
