"""What a report says of a study: its tables, what is not done, and the files it leaves."""

import json
import re

import pytest

from vidgn.cli.report import run
from vidgn.errors import ManifestError
from vidgn.report.analyse.analysis import analyse
from vidgn.report.read.published import IMAGENET, KINETICS
from vidgn.report.read.study import read_study
from vidgn.report.show.as_json import as_json
from vidgn.report.show.report_files import report_markdown, write_report


def report_of(writer) -> str:
    """report.md as it would be written, without drawing."""
    return report_markdown(analyse(read_study(writer.directory)), pictures=[])


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """First column -> other cells, of the table under `heading`."""
    section = text[text.index(heading) :].split("\n## ")[0]
    lines = [[c.strip() for c in line[1:-1].split("|")] for line in section.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines}


def test_demo_report_is_written_and_printed(demo, capsys):
    assert run([str(demo.directory)]) == 0
    printed = capsys.readouterr().out
    report = (demo.directory / "report.md").read_text()
    assert "8 runs: 8 done. One seed (0)." in report
    for name in ("report.md", "curves.png", "gap.png"):
        assert str(demo.directory / name) in printed
    assert "With one seed there is no interval for a gap" in report
    assert rows_of(report, "Wu & He 2018, table 8")["gn"] == ["73.0 / 90.6", "72.8 / 90.6", "74.5 / 91.7"]
    assert "Chance is 12.5 % (8 classes)." in report
    assert "i3d_tiny (160 videos, views paper, BN statistics precise)" in report
    assert [p.name for p in sorted(demo.directory.glob(".*"))] == []
    machine = json.loads((demo.directory / "report.json").read_text())
    assert [g["is_gap"] for g in machine["gaps"]] == [True] * 4
    assert machine["format_version"] == 2


def test_cells_show_their_accuracy(demo):
    table = rows_of(report_of(demo.writer), "Top-1 / top-5")
    for run_directory in demo.directory.glob("i3d_tiny_16f_2x2_*"):
        result = json.loads((run_directory / "result.json").read_text())
        assert table[result["norm"]][3] == f"{result['top1']:.1f} / {result['top5']:.1f}"


def test_json_is_the_same_as_the_file(demo, capsys):
    assert run([str(demo.directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((demo.directory / "report.json").read_text())


def test_a_second_report_is_byte_for_byte_the_first(demo):
    def content():
        write_report(demo.directory)
        return {p.name: p.read_bytes() for p in demo.directory.iterdir() if p.is_file()}

    assert content() == content()


def test_missing_failed_and_unfinished_cells(writer, make_ranks):
    writer.finish(writer.config(norm="bn", gpus=2), make_ranks(60, 0.7, seed=1))
    writer.ask(writer.config(norm="gn", gpus=2))
    writer.start(writer.config(norm="ln", gpus=2), error="DecodeError: a.mp4: not a video")
    writer.start(writer.config(norm="in", gpus=2), metrics=[{"kind": "train", "step": 120, "epoch": 1.5}])
    report = report_of(writer)
    assert "4 runs: 1 done, 1 stopped, 1 failed, 1 missing." in report
    table = rows_of(report, "Top-1 / top-5")
    assert (table["gn"], table["ln"], table["in"]) == (["missing"], ["failed"], ["stopped"])
    assert "- i3d_tiny_32f_8x2_gn_s0: missing\n" in report
    assert "- i3d_tiny_32f_8x2_ln_s0: failed, DecodeError: a.mp4: not a video\n" in report
    assert "- i3d_tiny_32f_8x2_in_s0: stopped, at step 120 of 400" in report
    assert "## Gap" not in report


def test_a_seed_that_is_missing_is_counted(writer, make_ranks):
    for seed in range(2):
        writer.finish(writer.config(norm="bn", gpus=2, seed=seed), make_ranks(60, 0.7, seed=seed))
    writer.ask(writer.config(norm="bn", gpus=2, seed=2))
    assert rows_of(report_of(writer), "Top-1 / top-5")["bn"][0].endswith(", 1 missing")


def test_unreadable_and_missing_videos_are_counted(writer, make_ranks):
    ranks = make_ranks(60, 0.7, seed=1)
    ranks[:3] = -1
    writer.finish(writer.config(norm="bn"), ranks, num_missing=19, num_substituted=2, num_skipped=1)
    report = report_of(writer)
    assert "_bn_s0: 3 unreadable, counted as wrong (5 % of the test)" in report
    assert "_bn_s0: 19 listed but not there, left out" in report
    assert "_bn_s0: 2 training clips unreadable and replaced by others" in report
    assert "_bn_s0: 1 step skipped, loss or gradient not finite" in report


def test_how_videos_were_transcoded_is_said(writer, make_ranks):
    writer.finish(writer.config(norm="bn"), make_ranks(60, 0.7, seed=1), transcoded_as=["fast, short side 256"])
    writer.finish(writer.config(norm="gn"), make_ranks(60, 0.7, seed=2), transcoded_as=["fast, short side 256"])
    assert "Videos were transcoded: fast, short side 256." in report_of(writer)


def test_an_arm_at_chance_is_named(writer, make_ranks):
    writer.finish(writer.config(norm="bn"), make_ranks(160, 0.13, seed=1))
    writer.finish(writer.config(norm="gn"), make_ranks(160, 0.80, seed=1))
    assert "Not above chance by a 95 % interval: i3d_tiny_32f_8x8_bn_s0." in report_of(writer)


def test_where_every_run_is_at_chance_none_is_named(writer, make_ranks):
    for norm in ("bn", "gn"):
        writer.finish(writer.config(norm=norm), make_ranks(160, 0.13, seed=1))
    assert "Chance is 12.5 % (8 classes). No run is above it by a 95 % interval." in report_of(writer)


def test_published_cells_stand_beside_the_papers_net(writer, make_ranks):
    for norm in ("bn", "gn"):
        for frames, clips in ((32, 8), (64, 4), (16, 8)):
            config = writer.config(model="i3d_r50", data="kinetics400", norm=norm, frames=frames, clips_per_gpu=clips)
            writer.finish(config, make_ranks(400, 0.73, seed=frames + clips), classes=400)
    report = report_of(writer)
    table = rows_of(report, "Top-1 / top-5")
    assert table["bn, Wu & He 2018"] == ["", "73.3 / 90.7", "73.3 / 90.8"]
    assert table["gn, Wu & He 2018"] == ["", "73.0 / 90.6", "74.5 / 91.7"]
    assert "For reference" not in report


def test_published_cells_do_not_stand_beside_other_data(writer, make_ranks):
    config = writer.config(model="i3d_r50", data="kinetics400", norm="bn")
    writer.finish(config, make_ranks(60, 0.7, seed=1), classes=10)
    report = report_of(writer)
    assert "bn, Wu & He 2018" not in report
    assert "For reference" in report


def test_published_numbers():
    """Table 8's gaps and the abstract's: 10.6 points lower error at batch 2."""
    told = {(p.norm, p.frames, p.clips_per_gpu): p.top1 for p in KINETICS}
    gaps = [round(told["gn", f, c] - told["bn", f, c], 1) for f, c in ((32, 8), (32, 4), (64, 4))]
    assert gaps == [-0.3, 0.7, 1.2]
    errors = {(p.model, p.norm, p.clips_per_gpu): 100 - p.top1 for p in IMAGENET}
    assert errors["resnet50", "bn", 2] - errors["resnet50", "gn", 2] == pytest.approx(10.6)
    assert errors["resnet50", "ln", 32] == pytest.approx(25.3)
    assert errors["resnet101", "bn", 2] - errors["resnet101", "gn", 2] == pytest.approx(8.9)


@pytest.fixture
def imagenet(writer, make_ranks):
    errors = {"bn": {32: 0.24, 8: 0.26, 2: 0.36}, "gn": {32: 0.245, 8: 0.25, 2: 0.25}, "ln": {32: 0.27}}
    for norm, of_norm in errors.items():
        for images, error in of_norm.items():
            config = writer.config(model="resnet50", data="imagenet", norm=norm, frames=1, span=1, clips_per_gpu=images)
            curve = [(e, float(e), 100 * error + 60 / e) for e in range(1, 11)]
            ranks = make_ranks(2000, 1 - error, seed=images + len(norm))
            writer.finish(config, ranks, classes=1000, plan_digest=str(images), curve=curve)
    return writer


def test_images_are_reported_in_error_beside_the_paper(imagenet):
    report = report_of(imagenet)
    table = rows_of(report, "Validation error (%): resnet50 (2000 images")
    assert table["bn, Wu & He 2018"] == ["23.6", "24.8", "34.7"]
    assert table["gn, Wu & He 2018"] == ["24.1", "24.0", "24.1"]
    assert table["ln, Wu & He 2018"] == ["25.3", "", ""]
    assert next(iter(table)) == "resnet50"
    assert table["resnet50"][0] == "32 images/GPU × 8"
    assert "covers the choice of images alone" in report


def test_gaps_of_images_are_in_error(imagenet):
    report = report_of(imagenet)
    machine = as_json(analyse(read_study(imagenet.directory)))
    gap = next(g for g in machine["gaps"] if g["arm"]["norm"] == "gn" and g["arm"]["clips_per_gpu"] == 2)
    assert gap["points"]["mean"] > 5  # accuracy, for machines
    cells = rows_of(report, "## Gap to bn: top-1 error")["gn − bn, 2 images/GPU × 8"]
    assert cells[0] == f"−{gap['points']['mean']:.1f}"
    assert cells[1] == "1 seed: none"
    low, high = re.findall(r"[+−][\d.]+", cells[2])
    assert (low, high) == (f"−{gap['videos']['high']:.1f}", f"−{gap['videos']['low']:.1f}")
    assert f"the error of gn is {gap['points']['mean']:.1f} points below bn's" in report


def test_other_tests_are_tabled(writer, make_ranks):
    run_directory = writer.finish(writer.config(norm="bn", clips_per_gpu=2), make_ranks(60, 0.5, seed=1))
    told = json.loads((run_directory / "result.json").read_text())
    writer.test(run_directory, "paper-batch", make_ranks(60, 0.7, seed=2), told | {"top1": 71.25, "bn_stats": "batch"})
    table = rows_of(report_of(writer), "## Other tests")
    assert table["run"] == ["paper-batch", "paper-precise"]
    assert table[run_directory.name] == ["71.2", f"{told['top1']:.1f}"]


def test_stale_pictures_are_removed(demo, writer):
    write_report(demo.directory)
    for curve in demo.directory.glob("*/metrics.jsonl"):
        curve.write_text("")
    write_report(demo.directory)
    assert not (demo.directory / "curves.png").exists()
    assert (demo.directory / "gap.png").exists()


def test_a_run_outside_the_list_is_found(demo, writer):
    (demo.directory / "study.json").unlink()
    report = report_of(writer)
    assert "8 runs: 8 done" in report
    assert "No study.json" in report


def test_wrong_directories_are_one_line(tmp_path, demo):
    cases = {
        tmp_path / "nowhere": "there is no such directory",
        tmp_path: "looked for study.json or a run in",
    }
    for directory, words in cases.items():
        with pytest.raises(ManifestError, match=words) as caught:
            run([str(directory)])
        assert "\n" not in str(caught.value)
    with pytest.raises(ManifestError, match="is a run, not a study: give the directory above it"):
        read_study(next(demo.directory.glob("i3d*")))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"cells": [{"values": {}}]}', '{"cells": [{"run_name": "a", "values": {}}]}']
)
def test_a_broken_list_of_cells_is_one_line(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ManifestError, match=r"study\.json"):
        run([str(tmp_path)])


def test_broken_scores_are_one_line(demo):
    (next(demo.directory.glob("*_bn_s0")) / "tests" / "paper-precise.csv").write_text("id,label\na,1\n")
    with pytest.raises(ManifestError, match="is no file of per-video scores: needs id,label,status,rank"):
        run([str(demo.directory)])


def test_a_torn_result_does_not_stop_the_report(demo):
    (next(demo.directory.glob("*_bn_s0")) / "result.json").write_text('{"top1": 7')
    assert "result.json is not whole" in report_of(demo.writer)
