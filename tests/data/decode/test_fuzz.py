"""Damaged bytes in files end in frames or in a DecodeError, within limits of time and memory, never in a crash."""

import io
import random
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.encoded_videos import KINDS, picture
from vidgn.data.decode import open_image, open_video
from vidgn.data.decode.base import Box, ResolvedClip
from vidgn.data.loading.pool import Limits, Outcome, map_in_workers
from vidgn.errors import DecodeError

NUM_SHORT, NUM_LONG = 60, 400
LIMITS = Limits(timeout_seconds=30, memory_mib=2048)
HEADER_BYTES = 4096
ORIENTATION, MAKER, RESOLUTION, EXIF_IFD = 0x0112, 0x010F, 0x011A, 0x8769
EXIF_BYTES = 160  # of the images made here

torch.set_num_threads(1)  # imported before the workers' memory is limited


def damaged(data: bytes, rng: random.Random) -> bytes:
    """1 to 64 bytes changed, half the time near the start or the end, where headers are; sometimes cut off."""
    damage = bytearray(data)
    start, end = 0, len(damage)
    if rng.random() < 0.5:
        start, end = (0, min(end, HEADER_BYTES)) if rng.random() < 0.5 else (max(0, end - HEADER_BYTES), end)
    for _ in range(2 ** rng.randint(0, 6)):
        damage[rng.randrange(start, end)] = rng.randrange(256)
    return bytes(damage[: rng.randrange(len(damage))] if rng.random() < 0.1 else damage)


def read_damaged(item: tuple[str, int]) -> str:
    """What reading a damaged copy of a file ends in. Runs in a worker process."""
    path, seed = item
    rng = random.Random(seed)
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as file:
        file.write(damaged(Path(path).read_bytes(), rng))
        file.flush()
        try:
            with open_video(file.name, timeout_seconds=20) as reader:
                start = rng.randrange(reader.num_frames)
                box = Box(0, 0, max(1, reader.height // 2), max(1, reader.width // 2))
                indices = tuple((start + 2 * i) % reader.num_frames for i in range(16))
                frames_THWC = reader.read([ResolvedClip(indices, box, 64, 64, flip=True)])[0]
                assert frames_THWC.shape == (16, 64, 64, 3)
                return "frames"
        except DecodeError as error:
            return "error" if file.name in str(error) and "\n" not in str(error) else f"badly worded: {error}"


def files(shared_data: Path) -> list[Path]:
    folders = [shared_data / "clips" / name for name in ("good", "odd")]
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.stat().st_size < 600_000]


def assert_survives(items: Iterable[tuple[str, int]]) -> None:
    outcome: Outcome[tuple[str, int]]
    endings: Counter[str] = Counter()
    for outcome in map_in_workers(read_damaged, items, workers=1, limits=LIMITS):
        assert outcome.failure is None, f"{outcome.item}: {outcome.failure} {outcome.reason}"
        endings[outcome.value] += 1
    assert set(endings) == {"frames", "error"}  # the damage is neither too little nor too much to test anything


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("made")
    return [write(folder) for write in KINDS.values()]


def test_damaged_copies_of_every_kind_end_in_frames_or_an_error(made: list[Path]) -> None:
    assert_survives((str(made[seed % len(made)]), seed) for seed in range(NUM_SHORT))


@pytest.mark.long
def test_many_damaged_copies_of_every_kind_end_in_frames_or_an_error(made: list[Path]) -> None:
    assert_survives((str(made[seed % len(made)]), seed) for seed in range(NUM_SHORT, NUM_SHORT + NUM_LONG))


@pytest.mark.shared
def test_damaged_files_end_in_frames_or_an_error(shared_data: Path) -> None:
    paths = files(shared_data)
    assert_survives((str(paths[seed % len(paths)]), seed) for seed in range(NUM_SHORT))


@pytest.mark.long
@pytest.mark.shared
def test_many_damaged_files_end_in_frames_or_an_error(shared_data: Path) -> None:
    paths = files(shared_data)
    assert_survives((str(paths[seed % len(paths)]), seed) for seed in range(NUM_SHORT, NUM_SHORT + NUM_LONG))


def jpeg() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER], exif[RESOLUTION], exif[EXIF_IFD] = 6, "maker", 72.0, {0x9000: b"0230", 0x829A: 0.01}
    file = io.BytesIO()
    Image.fromarray(picture(0)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_damaged_images_end_in_pixels_or_an_error(tmp_path: Path) -> None:
    whole, path, errors, num_read = jpeg(), tmp_path / "image.jpg", [], 0
    for seed in range(300):
        rng, damage = random.Random(seed), bytearray(whole)
        end = EXIF_BYTES if rng.random() < 0.8 else len(whole)
        for _ in range(2 ** rng.randint(0, 4)):
            damage[rng.randrange(20, end)] = rng.randrange(256)
        path.write_bytes(damage)
        try:
            with open_image(path) as reader:
                num_read += len(reader.read([ResolvedClip((0,), Box(0, 0, 8, 8), 8, 8, False)]))
        except DecodeError as error:
            errors.append(str(error))
    assert all(error.startswith(f"{path}: is no image that can be read (") and "\n" not in error for error in errors)
    assert min(num_read, len(errors)) > 30
