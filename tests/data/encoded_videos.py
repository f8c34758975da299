"""Small videos of every kind that comes along, encoded on the spot. Each frame shows its own number."""

import os
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM_FRAMES, HEIGHT, WIDTH, FPS = 40, 64, 96, 25
_BITS = 6


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A textured picture that drifts and brightens from frame to frame, above it its number: see `number_shown`."""
    y, x = np.mgrid[:height, :width]
    ripple = 60 * np.sin((x + 3 * number) / 7) + 50 * np.cos((y - 2 * number) / 5)
    block = 40 * ((x // 8 + y // 8 + number) % 2)
    channels = [70 + ripple + block + number, 90 + 0.7 * ripple + number, 120 - 0.5 * ripple + block]
    image_HWC = np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
    bits = [1, *(number >> bit & 1 for bit in reversed(range(_BITS))), 0]
    of_column = np.array(bits)[np.arange(width) * len(bits) // width]
    image_HWC[: height // 4] = 255 * of_column[None, :, None]
    image_HWC[height // 4 : height // 2] = 255 * (1 - of_column)[None, :, None]
    return image_HWC


def number_shown(image_HWC: np.ndarray) -> int:
    """The number in a picture, whatever a codec did to it: white and black blocks, below them their opposites.

    The first block is white and the last black, so that a picture turned or mirrored shows none: AssertionError.
    """
    height, width = image_HWC.shape[:2]
    columns = [(2 * i + 1) * width // (2 * (_BITS + 2)) for i in range(_BITS + 2)]
    bits, opposites = (
        [int(image_HWC[row - 2 : row + 3, c - 2 : c + 3].mean() > 127) for c in columns]
        for row in (height // 8, height * 3 // 8)
    )
    assert (bits[0], bits[-1]) == (1, 0), bits
    assert [1 - bit for bit in bits] == opposites, (bits, opposites)
    return int("".join(map(str, bits[1:-1])), 2)


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
    num_frames: int = NUM_FRAMES,
    title: str = "",
) -> Path:
    """Frames with `codec`; frame i shows i, at pts_of(i) / FPS seconds."""
    os.environ["SVT_LOG"] = "0"  # it speaks past FFmpeg's log
    height, width = size
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        container.metadata.update({"title": title} if title else {})
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            shown = picture(number, *((width, height) if rotation % 180 else (height, width)))
            coded = np.ascontiguousarray(np.rot90(shown, -rotation // 90))
            frame = av.VideoFrame.from_ndarray(coded, format="rgb24")
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


def packed(source: Path, path: Path) -> Path:
    """An MPEG-4 AVI whose B pictures lie in the packet of the picture before, as DivX and Xvid leave them.

    Each pair is followed by a packet of a few bytes, a picture said not to be coded, which keeps the count right.
    """
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        data = [bytes(packet) for packet in old.demux(stream) if packet.size]
        copy = new.add_stream_from_template(stream)
        pairs = []
        while data:
            first, then = data.pop(0), data[:1]
            pairs += [first + data.pop(0), _NOT_CODED] if then and _picture_type(then[0]) == "B" else [first]
        header = pairs[0].index(b"\x00\x00\x01\xb2")  # user data: where FFmpeg says its name
        end = pairs[0].index(b"\x00\x00\x01", header + 4)
        pairs[0] = pairs[0][: header + 4] + b"DivX503b1393p" + pairs[0][end:]
        for number, bytes_ in enumerate(pairs):
            packet = av.Packet(bytes_)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, FPS), copy
            packet.is_keyframe = number == 0
            new.mux(packet)
    return path


# A P picture at no time after the one before, not coded: 2 bits type, 1 of modulo time, marker, 5 of time, marker, 0.
_NOT_CODED = b"\x00\x00\x01\xb6" + int("0101000001001111", 2).to_bytes(2, "big")


def _picture_type(packet: bytes) -> str:
    return "IPBS"[packet[packet.index(b"\x00\x00\x01\xb6") + 4] >> 6]


def with_sound(source: Path, path: Path, codec: str = "libopus") -> Path:
    """The pictures of `source` beside a stream of sound, not re-encoded."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        sound = new.add_stream(codec, rate=48000)
        copy = new.add_stream_from_template(old.streams.video[0])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        new.mux(sound.encode(frame))
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
        new.mux(sound.encode())
    return path


def _sound(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _wav(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def _claims_more(path: Path) -> Path:
    """An AVI whose header claims one frame more than there are, with a title that is not UTF-8."""
    data = bytearray(encode(path, "mpeg4", title="a title").read_bytes())
    for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        assert int.from_bytes(data[place : place + 4], "little") == NUM_FRAMES
        data[place : place + 4] = (NUM_FRAMES + 1).to_bytes(4, "little")
    path.write_bytes(data.replace(b"a title", b"a\xd3title"))
    return path


def _header(good: Path) -> bytes:
    """The header of a fragmented MP4, as streams begin, and nothing after it."""
    with (
        av.open(str(good)) as old,
        av.open(
            str(good.with_suffix(".frag.mp4")), "w", container_options={"movflags": "frag_keyframe+empty_moov"}
        ) as new,
    ):
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = copy
                new.mux(packet)
    data = good.with_suffix(".frag.mp4").read_bytes()
    return data[: data.index(b"moof") - 4]


def _without_data(good: Path) -> bytes:
    """An MP4 whose list of frames is whole and whose frames are gone, as a broken download leaves it."""
    data = good.read_bytes()
    start = data.index(b"mdat") + 4
    end = data.rindex(b"moov") - 4
    return data[:start] + bytes(end - start) + data[end:]


def _torn(good: Path, number: int) -> bytes:
    """Zeros in place of the packet of frame `number`, in order of decoding, and of the two after it."""
    data = bytearray(good.read_bytes())
    with av.open(str(good)) as container:
        for packet in [p for p in container.demux(container.streams.video[0]) if p.size][number : number + 3]:
            assert packet.pos is not None
            data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return bytes(data)


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
    "h264_sound_mkv": lambda d: with_sound(_h264(d / "silent.mp4"), d / "sound.mkv"),
    "vp9": lambda d: encode(d / "vp9.webm", "libvpx-vp9", options={"cpu-used": "8", "auto-alt-ref": "1"}),
    "vp9_mp4": lambda d: encode(d / "vp9.mp4", "libvpx-vp9", options={"cpu-used": "8", "lag-in-frames": "10"}),
    "av1": lambda d: encode(d / "av1.mp4", "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4": lambda d: encode(d / "mpeg4.mp4", "mpeg4", options={"bf": "2"}),
    "mpeg4_avi": lambda d: encode(d / "mpeg4.avi", "mpeg4"),
    "mpeg4_b_frames_avi": lambda d: encode(d / "mpeg4_b.avi", "mpeg4", options={"bf": "2"}),
    "mpeg4_packed_avi": lambda d: packed(encode(d / "unpacked.avi", "mpeg4", options={"bf": "1"}), d / "packed.avi"),
    "mpeg4_claims_more_avi": lambda d: _claims_more(d / "claims_more.avi"),
    "mpeg2_odd_size": lambda d: encode(d / "mpeg2_odd.mp4", "mpeg2video", size=(63, 95)),
    "mpeg2": lambda d: encode(d / "mpeg2.mpg", "mpeg2video", options={"bf": "2"}),
    "mjpeg": lambda d: encode(d / "mjpeg.avi", "mjpeg", pix_fmt="yuvj420p"),
    "one_frame": lambda d: encode(d / "one_frame.mp4", "libx264", options=_X264, num_frames=1),
}
# kind -> the numbers that its frames show, in order; all others show 0, 1, ... NUM_FRAMES - 1
NUMBERS = {
    "h264_edit_list": range(12 + 5, NUM_FRAMES),  # without the first GOP, and five frames that are hidden
    "h264_open_trim": range(12, NUM_FRAMES),  # the three before the keyframe can't be decoded without what was cut off
    "h264_open_edit_list": range(12 - 3 + 6, NUM_FRAMES),  # of those and what follows six are hidden
    "hevc_open_trim": range(12, NUM_FRAMES),
    "one_frame": range(1),
}


def numbers_of(kind: str) -> range:
    """What the frames of a file of KINDS show, in order."""
    return NUMBERS.get(kind, range(NUM_FRAMES))


# name of a file -> what writes it from a good one, (what `vidgn data check` calls it, words of its reason)
DAMAGED: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "empty.mp4": (lambda good, to: to.touch(), "unreadable", "is empty (0 bytes)"),
    "cut_off.mp4": (lambda good, to: to.write_bytes(good.read_bytes()[:-200]), "unreadable", "is no video"),
    "header_only.mp4": (lambda good, to: to.write_bytes(_header(good)), "unreadable", "holds no frames"),
    "no_data.mp4": (
        lambda good, to: to.write_bytes(_without_data(good)),
        "unreadable",
        "none of its 40 frames decodes",
    ),
    "sound.mp4": (
        lambda good, to: _sound(to, "aac"),
        "unreadable",
        "no video stream that can be decoded (found: audio)",
    ),
    "wav.mp4": (lambda good, to: _wav(to), "unreadable", "is no video"),
    "script.mp4": (lambda good, to: to.write_text(f"ffconcat version 1.0\nfile {good}\n"), "unreadable", "is no video"),
    "torn.mp4": (lambda good, to: to.write_bytes(_torn(good, 28)), "damaged", "of 40 frames do not decode"),
}


def write_damaged(name: str, folder: Path) -> Path:
    """A file of DAMAGED."""
    folder.mkdir(exist_ok=True)
    good = folder / "whole.mp4"
    if not good.exists():
        _h264(good)
    DAMAGED[name][0](good, folder / name)
    return folder / name


def write_set(folder: Path, *, num_classes: int = 5) -> Path:
    """A training set of one file of each kind, `train.csv`, and a validation set of every second of them, `val.csv`."""
    rows = [f"{write(folder).name},motion {i % num_classes}" for i, write in enumerate(KINDS.values())]
    for name, listed in {"train": rows, "val": rows[::2]}.items():
        (folder / f"{name}.csv").write_text("\n".join(["path,label", *listed]) + "\n")
    return folder
