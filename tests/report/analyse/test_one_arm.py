"""What stands in one mean is of one experiment, and a gap is measured on the runs and videos that it names."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from vidgn.errors import ManifestError
from vidgn.report.analyse.analysis import analyse
from vidgn.report.analyse.statistics import gap_interval
from vidgn.report.read.study import read_study
from vidgn.report.show.gap_sections import gap_section
from vidgn.report.show.report_files import write_report
from vidgn.report.show.sections import summary
from vidgn.report.show.sections import test_table as table_of_tests
from vidgn.report.show.status import status_text


def analysis_of(writer):
    return analyse(read_study(writer.directory))


def with_optim(config, **changes):
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **changes))


def with_fold(config, fold, folds):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold, folds=folds))


def test_seeds_of_another_experiment_are_left_out_and_named(writer, make_ranks):
    """Both arms of seed 1 agree, so the pair is a gap; it is not one of seed 0's experiment."""
    for seed, norm in itertools.product(range(3), ("bn", "gn")):
        config = writer.config(norm=norm, gpus=2, seed=seed)
        config = with_optim(config, lr_per_clip=0.5) if seed == 1 else config
        writer.finish(config, make_ranks(100, 0.6, seed=seed), plan_digest=f"{seed}")
    analysis = analysis_of(writer)
    (gap,) = analysis.gaps
    why = "not as seed 0 of the same arm: settings: optim.lr_per_clip (0.5 / 0.00015625)"
    assert gap.seeds == (0, 2)
    assert gap.refused == (f"seed 1: {why}",)
    assert [fault for fault in analysis.faults if why in fault] == list(analysis.faults)
    assert len(analysis.faults) == 2
    assert why in write_report(writer.directory).report.read_text()


def test_seeds_tested_in_another_way_are_left_out(writer, make_ranks):
    for seed, norm in itertools.product(range(3), ("bn", "sync_bn")):
        config = writer.config(norm=norm, gpus=2, seed=seed)
        config = dataclasses.replace(config, bn_stats="ema") if seed == 2 else config
        writer.finish(config, make_ranks(100, 0.6, seed=seed), plan_digest=f"{seed}")
    (gap,) = analysis_of(writer).gaps
    assert gap.seeds == (0, 1)
    assert gap.refused == ("seed 2: not as seed 0 of the same arm: the test (paper-ema / paper-precise)",)


def test_points_are_of_the_videos_that_the_interval_is_of(writer, make_ranks):
    """Seed 1 was tested on the first 60 videos alone."""
    for seed, norm in itertools.product(range(2), ("bn", "gn")):
        ranks = make_ranks(400, 0.8 if norm == "gn" else 0.4, seed=seed)
        config = writer.config(norm=norm, gpus=2, seed=seed)
        writer.finish(config, ranks[: 60 if seed else None], plan_digest=f"{seed}", rows="rows")
    (gap,) = analysis_of(writer).gaps
    assert gap.videos.num_videos == 60
    assert gap.points.mean == pytest.approx(gap.interval.points)
    assert gap.remarks[0] == "340 videos that not every run's test has are left out"


def test_a_seed_without_all_folds_is_left_out_and_named(writer, make_ranks):
    done = [(fold, 0) for fold in range(3)] + [(0, 1)]
    for (fold, seed), norm in itertools.product(done, ("bn", "gn")):
        config = with_fold(writer.config(norm=norm, gpus=2, seed=seed), fold, 3)
        ranks = make_ranks(50, 0.9 if (norm, seed) == ("gn", 1) else 0.5, seed=fold + 10 * seed)
        run = writer.finish(config, ranks, plan_digest=f"{fold} {seed}", rows=f"rows {fold}")
        for file in (run / "tests").glob("*.csv"):
            file.write_text(file.read_text().replace("video_", f"fold{fold}_"))
    (gap,) = analysis_of(writer).gaps
    assert gap.runs == ((0, 0), (1, 0), (2, 0))
    assert gap.refused == ("seed 1: its fold 1, 2 is not done by both, or refused",)
    assert gap.points.mean == pytest.approx(gap.interval.points)


def test_a_run_that_was_moved_aside_is_not_counted(writer, make_ranks):
    run = writer.finish(writer.config(norm="bn", gpus=2), make_ranks(100, 0.4, seed=1))
    copy = shutil.copytree(run, run.with_name(f"{run.name}_old"))
    told = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps({**told, "top1": 99.0}))
    study = read_study(writer.directory)
    said = f"{run.name}_old is a copy or was renamed ({run.name} is its run), and is not counted"
    assert [cell.run_name for cell in study.cells] == [run.name]
    assert said in status_text(study)
    assert said in write_report(writer.directory).report.read_text()


def test_a_test_of_an_unfinished_run_is_none_of_the_finished_one(writer, make_ranks):
    run = writer.finish(writer.config(norm="bn", gpus=2), make_ranks(100, 0.4, seed=1))
    told = json.loads((run / "result.json").read_text())
    for name, steps in (("paper-ema", 7), ("paper-batch", told["steps"])):
        writer.test(run, name, make_ranks(100, 0.2, seed=2), {**told, "steps": steps})
    analysis = analysis_of(writer)
    assert sorted(analysis.study.cells[0].tests()) == ["paper-batch", "paper-precise"]
    assert "paper-ema" not in table_of_tests(analysis).header


def test_a_batch_tested_with_other_statistics_is_no_change_of_the_batch(writer, make_ranks):
    for clips, statistics in ((8, "precise"), (4, "ema")):
        config = dataclasses.replace(writer.config(norm="bn", clips_per_gpu=clips), bn_stats=statistics)
        writer.finish(config, make_ranks(100, 0.6, seed=clips))
    (change,) = analysis_of(writer).changes
    assert change.refused == ("statistics at test (ema / precise)",)


def test_a_change_by_more_than_chance_is_told_as_a_gap_is(writer, make_ranks):
    for clips, seed in itertools.product((8, 2), range(4)):
        config = writer.config(norm="bn", clips_per_gpu=clips, seed=seed)
        writer.finish(config, make_ranks(400, 0.9 if clips == 8 else 0.2, seed=seed), plan_digest=f"{clips} {seed}")
    (change,) = analysis_of(writer).changes
    assert change.state == "apart"


def test_data_of_two_kinds_are_no_one_study(writer, make_ranks):
    writer.finish(writer.config(norm="bn"), make_ranks(50, 0.5, seed=1))
    writer.finish(writer.config(norm="bn", data="imagenet", model="resnet_tiny"), make_ranks(50, 0.5, seed=1))
    with pytest.raises(ManifestError, match=r"runs of several kinds of data \(imagenet, video\).*: move those of one"):
        analysis_of(writer)


def test_folds_that_come_out_alike_have_an_interval_all_the_same():
    alike = np.zeros((1, 40), np.int8)
    alike[0, :8], alike[0, 8:12] = 1, -1
    interval = gap_interval([alike, alike])
    assert interval.low < 9 < 11 < interval.high
    assert 0 < interval.p < 1
    assert interval.detectable > 0


def test_the_section_says_which_seeds_were_left_out(writer, make_ranks):
    for seed, norm in itertools.product(range(2), ("bn", "gn")):
        config = writer.config(norm=norm, gpus=2, seed=seed)
        config = with_optim(config, weight_decay=0.5) if seed else config
        writer.finish(config, make_ranks(100, 0.6, seed=seed), plan_digest=f"{seed}")
    assert "optim.weight_decay (0.5 / 0.0001)" in gap_section(analysis_of(writer))


def test_longer_clips_of_another_experiment_are_not_told_of(writer, make_ranks):
    for frames, norm in itertools.product((32, 64), ("bn", "gn")):
        config = dataclasses.replace(writer.config(norm=norm, gpus=2), frames=frames)
        config = with_optim(config, lr_per_clip=0.5) if (frames, norm) == (64, "gn") else config
        writer.finish(config, make_ranks(100, 0.3 if frames == 32 else 0.6, seed=1), plan_digest=f"{frames}")
    told = summary(analysis_of(writer))
    assert "with longer clips bn +" in told
    assert "gn" not in told
