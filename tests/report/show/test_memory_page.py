import csv
import dataclasses
from pathlib import Path

import pytest

from vidgn.errors import ManifestError
from vidgn.report.read.memory_rows import MemoryRow, paper_peaks, read_memory
from vidgn.report.show.memory_page import memory_markdown, write_memory

MIB = 1 << 20


def row(frames, clips, *, norm="bn", model="i3d_r50", per_clip=300 * MIB, test=0, measured=None, status="ok"):
    saved, fixed = clips * per_clip * frames // 32, 100 * MIB
    training = 3 * fixed + saved + clips * 10 * MIB
    return MemoryRow(
        model=model,
        norm=norm,
        frames=frames,
        clips_per_forward=clips,
        precision="bf16",
        activation_memory="keep",
        parameter_bytes=fixed,
        gradient_bytes=fixed,
        optimizer_bytes=fixed,
        saved_bytes=saved,
        saved_bytes_per_clip=saved // clips,
        temporary_bytes=clips * 10 * MIB,
        ddp_bytes=0,
        training_bytes=training,
        test_bytes=test,
        peak_bytes=max(training, test),
        measured_peak_bytes=measured,
        measured_reserved_bytes=measured,
        status=status,
    )


def cells_of(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [c.strip() for c in line[1:-1].split("|")][1:]


@pytest.fixture
def rows():
    return [row(16, 8), row(32, 8, measured=2900 * MIB), row(64, 4), row(32, 8, norm="gn", per_clip=600 * MIB)]


def test_written_and_read_again(tmp_path, rows):
    paths = write_memory(tmp_path, rows)
    assert [p.name for p in paths] == ["memory.csv", "memory.md", "memory.png"]
    assert read_memory(tmp_path) == read_memory(tmp_path / "memory.csv") == tuple(rows)
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    with paths[0].open() as file:
        header = next(csv.reader(file))
    assert header == [f.name for f in dataclasses.fields(MemoryRow)]


def test_rows_may_be_mappings_with_empty_measurements(tmp_path):
    told = dataclasses.asdict(row(32, 8)) | {"measured_peak_bytes": "", "measured_reserved_bytes": None}
    write_memory(tmp_path, [told])
    assert read_memory(tmp_path) == (row(32, 8),)


def test_the_papers_columns_by_hand(rows):
    text = memory_markdown(rows)
    # 300 MiB fixed; 32 frames: 310 MiB a clip (300 kept + 10 beside), 64 frames: 610.
    expected = [300 + 8 * 310, 300 + 4 * 310, 300 + 4 * 610, 300 + 8 * 610]
    assert cells_of(text, "bn, bf16, keep") == [f"{mib / 1024:.2f}" for mib in expected]
    assert cells_of(text, "gn, bf16, keep")[2:] == ["", ""]  # no row of 64 frames to go by
    assert "64 frames at 8 clips/GPU was not run in the paper" in text
    assert text.count("(paper)") == 3


def test_a_geometry_that_was_asked_for_is_not_scaled(rows):
    (_, peaks), _ = paper_peaks([*rows, dataclasses.replace(row(64, 8), peak_bytes=123)])
    assert peaks[64, 8].predicted == 123
    assert peaks[32, 8].measured == 2900 * MIB


def test_only_training_grows_with_the_clips_of_a_forward(rows):
    r = row(64, 2, test=2000 * MIB)  # training: 300 + 2 * 610
    assert r.peak_bytes == 2000 * MIB
    assert r.peak_at(1) == 2000 * MIB
    assert r.peak_at(4) == (300 + 4 * 610) * MIB
    assert [r.clips_in(mib * MIB) for mib in (1999, 2000, 300 + 4 * 610, 300 + 4 * 610 - 1)] == [0, 2, 4, 3]
    assert row(64, 2).clips_in(299 * MIB) == row(64, 2).clips_in(300 * MIB) == 0


def test_another_net_has_no_papers_columns():
    text = memory_markdown([row(8, 2, model="i3d_tiny", per_clip=4 * MIB)])
    assert "paper" not in text
    assert "peak MiB" in text


def test_what_did_not_run_is_told():
    assert "- bn, 64 frames × 8: out of memory on a GPU of 16 GB" in memory_markdown(
        [row(64, 8, status="out of memory on a GPU of 16 GB")]
    )


@pytest.mark.parametrize("text", ["", "model,norm\ni3d,bn\n"])
def test_other_files_are_one_line(tmp_path, text):
    (tmp_path / "memory.csv").write_text(text)
    if not text:
        assert read_memory(tmp_path) == ()
        return
    with pytest.raises(ManifestError, match="is no memory table: needs the columns model,norm,frames"):
        read_memory(tmp_path)


def test_no_file_is_one_line(tmp_path):
    with pytest.raises(ManifestError, match=r"looked for .*memory\.csv \(vidgn memory writes it\)"):
        read_memory(tmp_path)
    assert not list(Path(tmp_path).iterdir())
