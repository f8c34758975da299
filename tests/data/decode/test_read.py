"""What reading gives beside the right pixels: geometry, sharing, limits, words of errors, no file but the named one."""

import io
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.encoded_videos import (
    DAMAGED,
    HEIGHT,
    KINDS,
    NUM_FRAMES,
    WIDTH,
    encode,
    number_shown,
    picture,
    with_sound,
    write_damaged,
)
from vidgn.config.schema import ViewsConfig
from vidgn.data.clips.plan import resolve_views
from vidgn.data.decode import open_image, open_video
from vidgn.data.decode.base import MAX_PIXELS, MAX_SIDE, Box, ResolvedClip, resize
from vidgn.errors import ConfigError, DecodeError

BROKEN = {
    "audio_only_gs-16b-2c-44100hz.mp4": "has no video stream that can be decoded (found: audio)",
    "bipbop_audioinit.mp4": "has no video stream that can be decoded",
    "bipbop_cbcs_video_init.mp4": "holds no frames",
    "chunk_out_of_range.mp4": "is no video that can be read",
    "concat_script.mp4": "is no video in a container that is read",
    "empty.mp4": "is empty (0 bytes)",
    "invalid_userdata.mp4": "holds no frames",
    "test.wav": "is no video in a container that is read",
    "truncated.mp4": "is no video that can be read",
}


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("read") / "video.mp4", "libx264", options={"preset": "veryfast"})


def clip_of(indices: tuple[int, ...], box: Box, size: int = 32, *, flip: bool = False) -> ResolvedClip:
    return ResolvedClip(indices, box, size, size, flip)


def bilinear_reference(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resizing from its formula, in float64: a triangle, as wide as the scale when shrinking."""

    def weights(source: int, target: int) -> np.ndarray:
        scale = source / target
        support = max(scale, 1.0)
        centres = (np.arange(target) + 0.5) * scale
        distance = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / support
        triangle = np.clip(1 - distance, 0, None)
        return triangle / triangle.sum(axis=1, keepdims=True)

    rows, columns = weights(image_HWC.shape[0], height), weights(image_HWC.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, image_HWC.astype(np.float64), columns)


@pytest.mark.parametrize("size", [(16, 16), (50, 70), (64, 96), (100, 130)])
def test_resizing_follows_its_formula(size: tuple[int, int]) -> None:
    image = picture(3)
    ours = resize(image[None], *size)[0]
    np.testing.assert_allclose(ours, bilinear_reference(image, *size), atol=1.51)  # rounded once along each axis


def test_clips_are_cropped_resized_and_flipped(video: Path) -> None:
    box = Box(5, 7, 41, 53)
    with open_video(video) as reader:
        whole = reader.read([ResolvedClip((3, 9), Box(0, 0, HEIGHT, WIDTH), HEIGHT, WIDTH, False)])[0]
        plain, flipped = reader.read([clip_of((3, 9), box), clip_of((3, 9), box, flip=True)])
    expected = [bilinear_reference(frame[5:46, 7:60], 32, 32) for frame in whole]
    np.testing.assert_allclose(plain, expected, atol=1.51)
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    assert plain.flags.c_contiguous
    assert flipped.flags.c_contiguous


def test_frames_may_repeat_and_go_backwards(video: Path) -> None:
    box = Box(0, 0, 32, 32)
    with open_video(video) as reader:
        one = {index: reader.read([clip_of((index,), box)])[0][0] for index in (2, 20, 39)}
        mixed = reader.read([clip_of((39, 2, 2, 20, 39), box)])[0]
    np.testing.assert_array_equal(mixed, [one[i] for i in (39, 2, 2, 20, 39)])


def test_clips_share_no_memory(video: Path) -> None:
    clip = clip_of(tuple(range(8)), Box(0, 0, 40, 40))
    with open_video(video) as reader:
        first, second = reader.read([clip, clip])
    kept = second.copy()
    first[:] = 0
    np.testing.assert_array_equal(second, kept)


def test_all_views_come_from_one_pass(video: Path) -> None:
    views = ViewsConfig("paper", clips=10, crops=3, crop="scaled", plan="uniform")
    size = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
    clips = resolve_views(views, **size, frames=8, stride=2, short_side=(64, 80), crop=56)
    with open_video(video) as reader:
        together = reader.read(clips)
        assert reader.num_decoded <= NUM_FRAMES
    assert len(together) == 30
    for clip, frames_THWC in zip(clips, together, strict=True):
        with open_video(video) as alone:
            np.testing.assert_array_equal(alone.read([clip])[0], frames_THWC)


def test_a_clip_decodes_nothing_outside_its_stretch(video: Path) -> None:
    """GOPs of 12: frames 14..18 need at most packets 12..18, and less where pictures refer to nothing wanted."""
    with open_video(video) as reader:
        reader.read([clip_of((14, 16, 18), Box(0, 0, 8, 8))])
        assert reader.num_decoded <= 8


@pytest.mark.parametrize("name", [name for name, (_, status, _) in DAMAGED.items() if status == "unreadable"])
def test_damaged_files_give_a_reason(tmp_path: Path, name: str) -> None:
    path = write_damaged(name, tmp_path)
    with pytest.raises(DecodeError) as caught, open_video(path) as reader:
        reader.read([clip_of((0,), Box(0, 0, 64, 64))])
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_torn_in_the_middle_reads_up_to_there(tmp_path: Path) -> None:
    path = write_damaged("torn.mp4", tmp_path)
    box = Box(0, 0, HEIGHT, WIDTH)
    with open_video(path) as reader:
        clip = ResolvedClip((3, 26), box, HEIGHT, WIDTH, False)
        assert [number_shown(image) for image in reader.read([clip])[0]] == [3, 26]
        with pytest.raises(DecodeError, match="frame 27 of 40 does not decode"):
            reader.read([ResolvedClip((26, 27), box, HEIGHT, WIDTH, False)])


@pytest.mark.shared
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_give_a_reason(shared_data: Path, name: str) -> None:
    path = shared_data / "clips" / "broken" / name
    with pytest.raises(DecodeError) as caught:
        open_video(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert BROKEN[name] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_a_file_that_fails_in_the_middle_reads_up_to_there(shared_data: Path) -> None:
    with open_video(shared_data / "clips" / "broken" / "corrupted.mp4") as reader:
        assert reader.read([clip_of((0, 28), Box(0, 0, 64, 64))])[0].shape == (2, 32, 32, 3)
        with pytest.raises(DecodeError, match="frame 29 of 50 does not decode"):
            reader.read([clip_of((27, 29), Box(0, 0, 64, 64))])


def test_a_file_that_may_not_be_read_is_said(video: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret.mp4"
        path.write_bytes(video.read_bytes())
        path.chmod(0)
        Path(folder).chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may read anything
            with pytest.raises(DecodeError, match=r"secret\.mp4: can't be opened \(Permission denied\)"):
                open_video(path)
        finally:
            os.seteuid(user)


def test_scripts_open_no_other_file(video: Path, tmp_path: Path) -> None:
    """Play lists that name a good video, under names of videos: nothing but the named file may be read."""
    scripts = {
        "concat.mp4": f"ffconcat version 1.0\nfile {video}\n",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{video}\n#EXT-X-ENDLIST\n",
        "hls.ts": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{video.name}\n#EXT-X-ENDLIST\n",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DecodeError, match=r"is no video (that can be|in a container that is) read"):
            open_video(tmp_path / name)


@pytest.mark.parametrize("path", ["concat:a.mp4|b.mp4", "http://127.0.0.1/x.mp4", "pipe:0", "no such file.mp4"])
def test_only_files_are_opened(path: str) -> None:
    with pytest.raises(DecodeError, match="can't be opened"):
        open_video(path)


def test_names_with_odd_characters_open(video: Path, tmp_path: Path) -> None:
    for name in ("%03d.mp4", "a:b.mp4", "käse löffel?.mp4", "'quoted' [1].mp4"):
        path = tmp_path / name
        path.write_bytes(video.read_bytes())
        with open_video(path) as reader:
            assert reader.num_frames == NUM_FRAMES


def test_sizes_beyond_any_video_are_refused(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    place = data.find(b"avc1", data.find(b"stsd")) + 4 + 24  # width and height of the sample entry
    assert struct.unpack(">2H", data[place : place + 4]) == (WIDTH, HEIGHT)
    data[place : place + 4] = struct.pack(">2H", MAX_SIDE + 2, HEIGHT)
    path = tmp_path / "huge.mp4"
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=f"claims {HEIGHT}x{MAX_SIDE + 2} pixels"):
        open_video(path)


def test_pictures_too_large_to_be_read_are_told_from_a_file_without_any(tmp_path: Path) -> None:
    """16000 x 16000 in motion JPEG: FFmpeg says no size at all."""
    picture_bytes = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture_bytes, "JPEG")
    data = bytearray(picture_bytes.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">2H", 16000, 16000)
    path = tmp_path / "huge.mjpeg"
    path.write_bytes(bytes(data) * 5)
    with pytest.raises(DecodeError, match=f"no pictures in it, or they have more than {MAX_PIXELS} pixels"):
        open_video(path)


def test_a_header_that_lies_about_the_size_is_told(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    place = data.find(b"avc1", data.find(b"stsd")) + 4 + 24
    data[place : place + 4] = struct.pack(">2H", WIDTH * 2, HEIGHT * 2)
    path = tmp_path / "liar.mp4"
    path.write_bytes(data)
    with open_video(path) as reader, pytest.raises(DecodeError, match="another size than its header says"):
        reader.read([clip_of((0,), Box(0, 0, 32, 32))])


def test_the_movies_own_rotation_counts(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    matrix = data.find(b"mvhd") + 4 + 36
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, -65536, 0, 65536, 0, 0, 0, 0, 2**30)
    (tmp_path / "turned.mp4").write_bytes(data)
    with open_video(video) as plain, open_video(tmp_path / "turned.mp4") as reader:
        upright = plain.read([ResolvedClip((7,), Box(0, 0, HEIGHT, WIDTH), HEIGHT, WIDTH, False)])[0][0]
        turned = reader.read([ResolvedClip((7,), Box(0, 0, WIDTH, HEIGHT), WIDTH, HEIGHT, False)])[0][0]
    np.testing.assert_array_equal(turned, np.rot90(upright))


def test_what_is_not_there_is_said_with_the_remedy(video: Path) -> None:
    with open_video(video) as reader:
        with pytest.raises(DecodeError, match=r"frame 40 asked for, but it has 40 frames; .*vidgn data index"):
            reader.read([clip_of((39, 40), Box(0, 0, 8, 8))])
        with pytest.raises(DecodeError, match="lies outside its 64x96 pixels"):
            reader.read([clip_of((0,), Box(0, 60, 8, 40))])
        assert reader.read([]) == []


def test_decoders_are_a_closed_set(video: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.decoder=nvdec is unknown; use one of auto, pyav, decord, torchcodec"):
        open_video(video, decoder="nvdec")


def test_time_is_limited(video: Path) -> None:
    with open_video(video, timeout_seconds=60) as reader:
        reader._deadline = 0.0
        with pytest.raises(DecodeError, match=r"took longer than 60 s; raise data\.timeout_seconds"):
            reader.read([clip_of((0,), Box(0, 0, 8, 8))])


def test_sound_and_cover_art_are_not_the_video(video: Path, tmp_path: Path) -> None:
    path = with_sound(video, tmp_path / "with_sound.mp4", "aac")
    box = Box(0, 0, 32, 32)
    with open_video(path) as reader, open_video(video) as plain:
        assert reader.num_frames == NUM_FRAMES
        np.testing.assert_array_equal(*(r.read([clip_of((5, 30), box)])[0] for r in (reader, plain)))


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_a_decoder_that_is_not_installed_is_said(video: Path, monkeypatch: pytest.MonkeyPatch, decoder: str) -> None:
    monkeypatch.setitem(sys.modules, decoder, None)
    monkeypatch.setitem(sys.modules, f"{decoder}.decoders", None)
    with pytest.raises(ConfigError, match=rf"data\.decoder={decoder} can't be loaded .* or use data\.decoder=pyav"):
        open_video(video, decoder=decoder)


def test_torchcodec_without_the_libraries_it_needs_is_one_line(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then raises a RuntimeError of a hundred lines while it is imported."""
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec/__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec.\\nLikely...')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):  # the second time too: half imported it would give way to PyAV without a word
        with pytest.raises(ConfigError, match=r"^data\.decoder=torchcodec can't be loaded .*use data\.decoder=pyav$"):
            open_video(video, decoder="torchcodec")


def test_frames_are_not_counted_where_an_index_did(tmp_path: Path) -> None:
    """Without time stamps, counting decodes the whole file: only asked for, it happens."""
    path = KINDS["mpeg4_b_frames_avi"](tmp_path)
    with open_video(path) as reader:
        reader.read([clip_of((0, 3), Box(0, 0, 32, 32))])
        assert reader.num_decoded < 8
        assert reader.num_frames == NUM_FRAMES
        with pytest.raises(DecodeError, match="frame 40 asked for, but it has 40 frames"):
            reader.read([clip_of((40,), Box(0, 0, 32, 32))])


@pytest.mark.parametrize(("mode", "extension"), [("RGB", "png"), ("L", "png"), ("RGB", "jpg"), ("CMYK", "jpg")])
def test_images_are_videos_of_one_frame(tmp_path: Path, mode: str, extension: str) -> None:
    path = tmp_path / f"image.{extension}"
    image = Image.fromarray(picture(0)).convert(mode)
    image.save(path)
    with open_image(path) as reader:
        assert (reader.num_frames, reader.height, reader.width) == (1, HEIGHT, WIDTH)
        frames_THWC = reader.read([ResolvedClip((0, 0), Box(3, 4, 20, 30), 20, 30, True)])[0]
    assert frames_THWC.shape == (2, 20, 30, 3)
    expected = np.asarray(Image.open(path).convert("RGB"))[3:23, 4:34][:, ::-1]
    np.testing.assert_array_equal(frames_THWC[0], expected)


def test_grey_of_16_bit_is_grey_of_8(tmp_path: Path) -> None:
    """A map of depths in millimetres, say: not white wherever a value is above 255."""
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(ramp).save(tmp_path / "image.png")
    with open_image(tmp_path / "image.png") as reader:
        grey = reader.read([ResolvedClip((0,), Box(0, 0, HEIGHT, WIDTH), HEIGHT, WIDTH, False)])[0][0]
    np.testing.assert_array_equal(grey, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=-1))


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(DecodeError, match="is no image that can be read"):
        open_image(tmp_path / "image.png")
