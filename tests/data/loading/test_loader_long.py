"""What takes minutes: memory over 10,000 clips. How fast readers are is for bench/loader.py to say."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.data.encoded_videos import encode
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.loading.batches import train_batches


def resident_bytes() -> int:
    """Memory that this process and those below it have written, each for itself; pages of files come and go."""
    me = psutil.Process()
    lines = (
        line
        for process in (me, *me.children(recursive=True))
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    )
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """Videos of several sizes and lengths: it is their frames' buffers that leave holes in a heap."""
    rows = ["path,label"]
    for i in range(24):
        size, name = (128 + 8 * (i % 7), 160 + 16 * (i % 5)), f"{i}.mp4"
        encode(tmp_path / name, "libx264", options={"preset": "veryfast"}, size=size, num_frames=10 + 7 * i)
        rows.append(f"{name},{i % 3}")
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    return {"root": str(tmp_path), "train": str(tmp_path / "train.csv"), "val": str(tmp_path / "train.csv")}


@pytest.fixture
def real(shared_data: Path) -> dict[str, str]:
    folder = shared_data / "egogestar"
    return {"root": str(folder), "train": str(folder / "256_train.csv"), "val": str(folder / "256_val.csv")}


@pytest.mark.long
@pytest.mark.parametrize("files", ["made", pytest.param("real", marks=pytest.mark.shared)])
def test_memory_stays_flat_over_10000_clips(tiny_data, request, files):
    files = request.getfixturevalue(files)
    data = replace(tiny_data, format="csv", **files, short_side=(128, 160), crop=112, workers=2)
    manifest = read_manifest(data, "train")
    positions = (range(start, start + 8) for start in range(0, 10_000, 8))
    warm = grown = 0
    with train_batches(manifest, data, seed=0, frames=8, stride=1, positions=positions) as stream:
        for number, _ in enumerate(stream, start=1):
            if number == 150:
                warm = resident_bytes()
            if number == 1248:
                grown = resident_bytes() - warm
    assert warm
    assert grown < 20e6
