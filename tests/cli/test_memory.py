"""vidgn memory: its files, its tables, its refusals; and the table in docs/memory.md."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vidgn.cli import main as entry
from vidgn.cli import memory
from vidgn.config.compose import load_config
from vidgn.memory import fit
from vidgn.memory.fit import parse_bytes, usable_bytes
from vidgn.memory.prediction import Prediction, predict
from vidgn.report.read.memory_rows import MemoryRow

TINY = ["model=i3d_tiny", "data=synthetic", "frames=8", "span=8"]
DOCS = Path(__file__).parents[2] / "docs" / "memory.md"


def rows_of(folder):
    with (folder / "memory.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_over_what_shares_a_directory(tmp_path, capsys):
    """Modes don't show in a run's name: nothing runs here, so they may be swept."""
    modes = "trainer.activation_memory=keep,block"
    assert memory.run(["-m", *TINY, modes, "norm=gn", "--out", str(tmp_path), "--no-measure"]) == 0
    keep, block = rows_of(tmp_path)
    assert list(keep) == list(MemoryRow.__dataclass_fields__)
    assert (keep["activation_memory"], block["activation_memory"]) == ("keep", "block")
    assert keep["clips_per_forward"] == "8"  # clips_per_gpu
    assert int(keep["saved_bytes"]) > int(block["saved_bytes"])
    assert keep["saved_bytes_per_clip"] == str(int(keep["saved_bytes"]) // 8)
    assert keep["measured_peak_bytes"] == keep["measured_reserved_bytes"] == ""
    assert keep["status"] == "ok"
    assert {p.name for p in tmp_path.iterdir()} == {"memory.csv", "memory.md", "memory.png"}
    assert "Not measured" in capsys.readouterr().out


@pytest.fixture
def gigabyte_a_clip(monkeypatch):
    """A predictor: 1 GiB for each clip of a forward."""

    def pretend(config, *, clips_per_forward, world_size=1, num_classes=400):
        size = clips_per_forward << 30
        return Prediction(clips_per_forward, config.frames, 0, 0, 0, 0, size, 0, size, 0)

    monkeypatch.setattr(fit, "predict", pretend)


def test_the_most_that_fits_and_what_does_not(gigabyte_a_clip, tmp_path, capsys):
    assert memory.run([*TINY, "norm=gn", "--gpu-memory", "24GiB", "--out", str(tmp_path)]) == 0
    assert rows_of(tmp_path)[0]["clips_per_forward"] == "16"  # 24 * 0.95 - 1
    assert memory.run([*TINY, "norm=bn", "--gpu-memory", "8GiB", "--out", str(tmp_path)]) == 0
    assert rows_of(tmp_path)[0]["clips_per_forward"] == "8"  # the fewest BN can have
    assert rows_of(tmp_path)[0]["status"].startswith("does not fit")
    assert "it takes a larger GPU" in capsys.readouterr().out


def test_a_table_of_several_gpus(gigabyte_a_clip, tmp_path, capsys):
    assert memory.run([*TINY, "norm=bn", "--gpu-memory", "8GiB,24GiB,80GiB", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "memory_fit.md").read_text()
    assert text in capsys.readouterr().out
    assert "| bn, 8f × 8, fp32, keep | none (8: 8.00) | 16 (16.00; 32: 32.00) | 64 (64.00) |" in re.sub(" +", " ", text)
    assert "- bn, 8f × 8, fp32, keep, 8GiB: the fewest, trainer.clips_per_forward=8," in text


@pytest.mark.parametrize("arguments", [["--gpu-memory", "24"], ["nrm=bn"], ["norm=bn,gn"], ["--gpu-memory", "own"]])
def test_mistakes_cost_a_line(arguments, capsys, tmp_path):
    assert entry.main(["memory", "--out", str(tmp_path), *arguments]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_where_the_folder_should_be(capsys, tmp_path):
    (tmp_path / "taken").write_text("")
    assert entry.main(["memory", *TINY, "--out", str(tmp_path / "taken")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vidgn memory: {tmp_path}/taken: File exists: ")
    assert entry.main(["memory", *TINY, "--out", str(tmp_path / "taken" / "in")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vidgn memory: {tmp_path}/taken/in: Not a directory: ")


def test_help_without_torch():
    code = "import sys; from vidgn.cli.main import main\ntry: main(['memory', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--gpu-memory" in done.stdout


def entries():
    """(cell, GPU, clips, peak, next clips, next peak) of the tables in docs/memory.md."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", DOCS.read_text(), flags=re.MULTILINE):
        header, _, *lines = [[c.strip() for c in line.strip("|\n").split("|")] for line in block.splitlines()]
        for cell, *values in lines if header[0] == "cell" else []:
            for name, value in zip(header[1:], values, strict=True):
                match = re.fullmatch(r"(none|\d+) \((?:([\d.]+); )?(?:(\d+): )?([\d.]+)\)", value)
                assert match, value
                found.append((cell, name.split()[0], *match.groups()))
    return found


def test_docs_have_every_cell_and_gpu():
    table = entries()
    assert {name for _, name, *_ in table} == {"11GB", "16GB", "24GB", "40GB", "80GB"}
    for norm in ("bn", "gn"):
        for geometry in ("32f × 8", "32f × 4", "64f × 4", "64f × 8"):
            assert any(cell.startswith(f"{norm}, {geometry}") for cell, *_ in table)


def test_docs_entries_are_what_is_predicted():
    """A few of them, at the clips that fit and one step above; all of them with `pytest -m long`."""
    table = entries()
    for entry_ in table[:: len(table) // 2]:
        check_entry(*entry_)


@pytest.mark.long
def test_all_docs_entries_are_what_is_predicted():
    for entry_ in entries():
        check_entry(*entry_)


def check_entry(cell, gpu, clips, peak, above, above_peak):
    norm, geometry, precision, mode = cell.split(", ")
    frames, clips_per_gpu = geometry.split("f × ")
    config = load_config(
        [
            f"norm={norm}",
            f"frames={frames}",
            f"clips_per_gpu={clips_per_gpu}",
            f"trainer.precision={precision}",
            f"trainer.activation_memory={mode}",
        ]
    )
    room = usable_bytes(parse_bytes(gpu))
    if clips != "none":
        whole_step = peak is None  # the only number in the brackets is the peak then
        needed = predict(config, clips_per_forward=int(clips)).peak_bytes
        assert needed <= room
        assert f"{needed / 2**30:.2f}" == (above_peak if whole_step else peak)
    if above is not None:
        needed = predict(config, clips_per_forward=int(above)).peak_bytes
        assert needed > room
        assert f"{needed / 2**30:.2f}" == above_peak
