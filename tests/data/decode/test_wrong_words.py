"""Files whose containers say what is not so: each frame is right by every decoder, or the file is refused by name."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.encoded_videos import FPS, HEIGHT, NUM_FRAMES, WIDTH, encode, number_shown, picture, write_damaged
from vidgn.data.decode import open_video
from vidgn.data.decode.base import Box, ResolvedClip, VideoReader
from vidgn.data.decode.guided import GuardedReader
from vidgn.data.decode.pyav import PyavReader
from vidgn.data.decode.write import Recoding, recode
from vidgn.data.tools.probe import probe
from vidgn.errors import DecodeError

DECODERS = ["pyav", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("decord", "torchcodec"))]
X264 = {"preset": "veryfast", "bf": "2", "x264-params": "open-gop=0"}
FAILED = (
    "h264_all_sync_decord.mp4",
    "mirror_hflip.mp4",
    "mpeg4_all_sync.mp4",
    "pal8_raw.avi",
    "ts_concat_overlapping_pts.ts",
    "two_streams_same_size.mp4",
    "wmv2_decord.wmv",
)
CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "cases"


def without_stss(path: Path) -> Path:
    """An MP4 that calls every packet a keyframe: it lacks the table of those that are."""
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    return path


def without_ctts(path: Path) -> Path:
    """An MP4 whose time stamps follow the order of coding: it lacks the table of how far each picture is moved."""
    data = path.read_bytes()
    assert data.count(b"ctts") == 1
    path.write_bytes(data.replace(b"ctts", b"free").replace(b"edts", b"free"))  # its edit list hides the first ones
    return path


def all_keys_in_index(path: Path) -> Path:
    """An AVI whose index calls every packet a keyframe."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"idx1")
    (size,) = struct.unpack_from("<I", data, place + 4)
    for entry in range(place + 8, place + 8 + size, 16):
        struct.pack_into("<I", data, entry + 4, 0x10)
    path.write_bytes(data)
    return path


def palette(path: Path) -> Path:
    """Raw video of 256 colours: the palette comes with the first packet alone."""
    colours = np.stack([np.full(256, 255), *3 * [np.arange(256)]], axis=1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "pal8"
        for number in range(NUM_FRAMES):
            grey_HW = np.ascontiguousarray(picture(number)[..., 0])
            container.mux(stream.encode(av.VideoFrame.from_ndarray((grey_HW, colours), format="pal8")))
        container.mux(stream.encode())
    return path


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, place, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def mirrored(path: Path, matrix: tuple[int, int, int, int], before: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Frames that show their numbers once `matrix` is applied; `before` takes a picture as shown to the one coded."""
    coded = [np.ascontiguousarray(before(picture(number))) for number in range(NUM_FRAMES)]
    height, width = coded[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture_HWC in coded:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode())
    return with_matrix(path, *matrix)


def two_streams(path: Path) -> Path:
    """The numbers in the first; in the second, of the same size, another picture."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=FPS, options=X264) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(NUM_FRAMES):
            for stream, shown in zip(streams, (picture(number), picture(5)), strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "mpeg4 without stss": lambda d: without_stss(encode(d / "mpeg4.mp4", "mpeg4")),
    "h264 without stss": lambda d: without_stss(encode(d / "h264.mp4", "libx264", options=X264)),
    "msmpeg4 with an index of keyframes": lambda d: all_keys_in_index(encode(d / "ms.avi", "msmpeg4")),
    "mpeg4 with an index of keyframes": lambda d: all_keys_in_index(encode(d / "m4.avi", "mpeg4")),
    "wmv": lambda d: encode(d / "w.wmv", "wmv2"),
    "palette": lambda d: palette(d / "p.avi"),
    "left and right exchanged": lambda d: mirrored(d / "h.mp4", (-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "top and bottom exchanged": lambda d: mirrored(d / "v.mp4", (1, 0, 0, -1), lambda p: p[::-1]),
    "rows and columns exchanged": lambda d: mirrored(d / "t.mp4", (0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "turned clockwise": lambda d: mirrored(d / "c.mp4", (0, 1, -1, 0), lambda p: np.rot90(p)),
    "turned and mirrored": lambda d: mirrored(d / "u.mp4", (0, -1, -1, 0), lambda p: p.swapaxes(0, 1)[::-1, ::-1]),
    "h264 whose times are in the order of coding": lambda d: without_ctts(encode(d / "c.mp4", "libx264", options=X264)),
    "a codec of screens": lambda d: encode(d / "r.mov", "qtrle", pix_fmt="rgb24"),
    "two streams": lambda d: two_streams(d / "two.mp4"),
}


def whole(number: int) -> Callable[[VideoReader], list[ResolvedClip]]:
    return lambda reader: [
        ResolvedClip((number,), Box(0, 0, reader.height, reader.width), reader.height, reader.width, flip=False)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp("wrong")) for kind, make in KINDS.items()}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_that_was_asked_for(files: dict[str, Path], kind: str, decoder: str) -> None:
    with open_video(files[kind], decoder=decoder) as reader:
        assert reader.num_frames == NUM_FRAMES
        order = [NUM_FRAMES - 1, 0, *random.Random(0).sample(range(NUM_FRAMES), 18)]
        assert [number_shown(reader.read_planned(whole(number))[0][0]) for number in order] == order


@pytest.mark.parametrize("kind", KINDS)
def test_check_finds_them_good(files: dict[str, Path], kind: str) -> None:
    found = probe(files[kind])
    assert (found.status, found.num_frames) == ("ok", NUM_FRAMES), found.reason
    assert ("video_streams" in found.flags) == (kind == "two streams")
    assert ("mirrored" in found.flags) == ("exchanged" in kind or "mirrored" in kind)
    assert ("rotated" in found.flags) == (kind == "turned clockwise")


def test_check_compares_a_frame_read_alone_with_a_decode_of_all(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keyframes believed as the container has them, it finds the wrong frames."""
    monkeypatch.setattr("vidgn.data.decode.pyav.PyavReader._is_keyframe", lambda self, frame: True)
    found = probe(files["mpeg4 without stss"])
    assert found.status == "damaged"
    assert "read alone is another picture than in a decode of all; transcode it" in found.reason


@pytest.mark.parametrize("decoder", DECODERS)
def test_recordings_that_were_joined_are_read_one_after_the_other(tmp_path: Path, decoder: str) -> None:
    """Their time stamps overlap: by these the frames would come out interleaved."""
    part = encode(tmp_path / "part.ts", "libx264", options=X264).read_bytes()
    (tmp_path / "joined.ts").write_bytes(part + part)
    with open_video(tmp_path / "joined.ts", decoder=decoder) as reader:
        assert reader.num_frames == 2 * NUM_FRAMES
        for number in (0, 17, NUM_FRAMES - 1, NUM_FRAMES, NUM_FRAMES + 5, 2 * NUM_FRAMES - 1):
            assert number_shown(reader.read_planned(whole(number))[0][0]) == number % NUM_FRAMES


@pytest.mark.parametrize("decoder", DECODERS)
def test_pictures_of_another_size_than_the_header_says(tmp_path: Path, decoder: str) -> None:
    path = encode(tmp_path / "liar.mp4", "libx264", options=X264)
    data = bytearray(path.read_bytes())
    struct.pack_into(">2H", data, data.find(b"avc1", data.find(b"stsd")) + 4 + 24, 2 * WIDTH, 2 * HEIGHT)
    path.write_bytes(data)
    with open_video(path, decoder=decoder) as reader:
        frame_HWC = reader.read_planned(whole(23))[0][0]
        assert frame_HWC.shape == (HEIGHT, WIDTH, 3)
        assert number_shown(frame_HWC) == 23
    assert (probe(path).status, probe(path).height) == ("ok", HEIGHT)


def test_a_size_that_changes_is_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    sizes = [(HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)]
    parts = [encode(tmp_path / f"{i}.ts", "libx264", options=X264, size=size) for i, size in enumerate(sizes)]
    path = tmp_path / "changes.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path) as reader, pytest.raises(DecodeError, match=r"changes its size .*vidgn data transcode"):
        reader.read_planned(whole(NUM_FRAMES + 3))
    assert "transcode it" in probe(path).reason
    made = tmp_path / "made.mp4"
    recode(str(path), str(made), Recoding(short_side=HEIGHT, keyframe_distance=8))
    with open_video(made) as reader:
        assert reader.num_frames == 2 * NUM_FRAMES
        for number in (3, NUM_FRAMES + 3):
            assert number_shown(reader.read_planned(whole(number))[0][0]) == number % NUM_FRAMES


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_colours_of_an_interlaced_picture_are_those_of_its_two_fields(tmp_path: Path, decoder: str) -> None:
    """A box of it is the same box of the whole picture as FFmpeg converts it."""
    path = encode(tmp_path / "fields.mpg", "mpeg2video", options={"flags": "+ildct+ilme", "top": "1"})
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert all(frame.interlaced_frame for frame in frames)
        right_HWC = frames[13].to_ndarray(format="rgb24", threads=1)
    with open_video(path, decoder=decoder) as reader:
        assert reader.decoder == "pyav"
        clip = ResolvedClip((13,), Box(10, 20, 40, 50), 40, 50, flip=False)
        np.testing.assert_array_equal(reader.read([clip])[0][0], right_HWC[10:50, 20:70])


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_that_build_on_a_damaged_one_are_refused(tmp_path: Path, decoder: str) -> None:
    """What a decoder shows in its place depends on where it began; from the next keyframe on all is well again."""
    path = write_damaged("torn.mp4", tmp_path)
    with open_video(path, decoder=decoder) as reader:
        guide = reader.guide if isinstance(reader, GuardedReader) else reader
        assert isinstance(guide, PyavReader)
        timeline = guide.timeline
        assert timeline is not None
        lost = [number for number in range(reader.num_frames) if fails(reader, number)]
    packets = sorted(timeline.order_of[timeline.shown_pts[number]] for number in lost)
    next_key = min((key for key in timeline.keyframes if key > packets[0]), default=NUM_FRAMES)
    assert packets == list(range(packets[0], next_key))
    assert probe(path).num_frames == lost[0]


def fails(reader: VideoReader, number: int) -> bool:
    try:
        assert number_shown(reader.read_planned(whole(number))[0][0]) == number
    except DecodeError:
        return True
    return False


def test_a_container_that_is_not_read_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.swf", "flv1")
    with pytest.raises(DecodeError, match=r"no video in a container that is read .*ffmpeg -i OLD -c copy NEW.mkv"):
        open_video(path)


@pytest.mark.shared
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", FAILED)
def test_the_files_that_failed(name: str, decoder: str) -> None:
    """Against a decode of all with nothing of vidgn in it."""
    with av.open(str(CASES / name)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = [frame.reformat(format="rgb24", threads=1).to_ndarray() for frame in container.decode(stream)]
    if name == "mirror_hflip.mp4":
        frames = [frame_HWC[:, ::-1] for frame_HWC in frames]
    with open_video(CASES / name, decoder=decoder) as reader:
        assert reader.num_frames == len(frames)
        for number in (len(frames) - 1, 0, *random.Random(1).choices(range(len(frames)), k=18)):
            (read_THWC,) = reader.read_planned(whole(number))
            difference = np.abs(read_THWC[0].astype(np.int16) - frames[number])
            assert difference.max() <= (0 if reader.decoder == "pyav" else 2), number
