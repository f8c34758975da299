"""`vidgn data compare`: videos by name, whatever folder and ending a copy gave them."""

from pathlib import Path

import pytest

from vidgn.cli.main import main
from vidgn.data.datasets.overlap import overlap_of
from vidgn.errors import ManifestError
from vidgn.video_names import stem_of

KINETICS = "label,youtube_id,time_start,time_end,split\nwave,a_-bcdefghi,1,11,val\nrun,abcdefghij2,5,15,val\n"


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_kinetics_and_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path, "k.csv", KINETICS)
    rows = "path,label\nval/wave/a_-bcdefghi_000001_000011.mkv,wave\nother.mp4,run\n"
    second = write(tmp_path, "c.csv", rows)
    found = overlap_of(first, second)
    assert found.common == ("a_-bcdefghi_000001_000011",)
    assert (found.only_first, found.only_second) == (("abcdefghij2_000005_000015",), ("other",))
    out = tmp_path / "common.txt"
    assert main(["data", "compare", first, second, "--out", str(out)]) == 0
    assert out.read_text() == "a_-bcdefghi_000001_000011\n"
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "1 videos in both",
        f"1 in {first} alone (abcdefghij2_000005_000015)",
        f"1 in {second} alone (other)",
    ]


def test_other_labels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path, "a.txt", "x/a.mp4 run\nx/b.mp4 wave\n")
    second = write(tmp_path, "b.txt", "b.avi run\na.avi run\n")
    assert main(["data", "compare", first, second]) == 1
    assert "1 with another label in the other list (first: b, 'wave' and 'run')" in capsys.readouterr().out


def test_names_that_come_twice_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a.txt", "x/a.mp4 run\ny/a.mp4 wave\n")
    with pytest.raises(ManifestError, match="several videos are called a; give them names of their own"):
        overlap_of(first, first)
    with pytest.raises(ManifestError, match="no such file; give an annotation"):
        overlap_of(str(tmp_path / "none"), first)


def test_a_segment_keeps_its_times() -> None:
    assert stem_of("films/a.b.mp4@1.000-2.500") == "a.b@1.000-2.500"
    assert stem_of("a.mp4") == "a"
