"""What may be called a gap, and what the report says where it may not."""

import dataclasses
import html
import itertools
import json
import shlex

import numpy as np
import pytest

from vidgn.cli.report import run as run_report
from vidgn.errors import ManifestError
from vidgn.report.analyse.analysis import analyse
from vidgn.report.read.study import read_study
from vidgn.report.show.gap_sections import change_section, gap_section
from vidgn.report.show.sections import accuracy_section, group_section


def analysis_of(writer):
    return analyse(read_study(writer.directory))


def with_optim(config, **changes):
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **changes))


@pytest.fixture
def pair(writer, make_ranks):
    """Writes bn and gn in one column; keyword arguments go to gn's run."""

    def write(*, change=lambda config: config, gn_ranks=None, **gn):
        ours = make_ranks(200, 0.8, seed=1) if gn_ranks is None else gn_ranks
        writer.finish(writer.config(norm="bn", gpus=2), make_ranks(200, 0.7, seed=2))
        writer.finish(change(writer.config(norm="gn", gpus=2)), ours, **gn)
        return analysis_of(writer)

    return write


def test_points_and_discordance_by_hand(pair, make_ranks):
    (gap,) = pair().gaps
    ours, theirs = make_ranks(200, 0.8, seed=1) == 0, make_ranks(200, 0.7, seed=2) == 0
    assert gap.is_gap
    assert gap.points.mean == pytest.approx(100 * (ours.mean() - theirs.mean()))
    assert gap.videos.points == pytest.approx(gap.points.mean)
    assert gap.videos.discordant == pytest.approx(np.mean(ours != theirs))
    assert gap.videos.detectable == pytest.approx(100 * 2.8016 * np.sqrt(np.mean(ours != theirs) / 200), rel=1e-4)


def test_another_learning_rate_is_no_gap_and_is_named(pair):
    analysis = pair(change=lambda c: with_optim(c, lr_per_clip=0.5))
    (gap,) = analysis.gaps
    assert not gap.is_gap
    assert gap.refused == ("settings: optim.lr_per_clip (0.5 / 0.00015625)",)
    text = gap_section(analysis)
    assert "**no gap**" in text
    assert "optim.lr_per_clip (0.5 / 0.00015625)" in text
    assert "points above" not in text


def test_arms_that_other_decoders_have_read_are_no_gap(writer, make_ranks):
    starts = {"bn": [("pyav", 0)], "gn": [("pyav", 0), ("decord", 9)]}
    for norm, decoders in starts.items():
        run = writer.finish(writer.config(norm=norm, gpus=2), make_ranks(200, 0.7, seed=2))
        entries = [{"from_step": step, "policy": {"data.decoder": name}} for name, step in decoders]
        (run / "machine.json").write_text(json.dumps(entries))
    (gap,) = analysis_of(writer).gaps
    assert gap.refused == ("settings: data.decoder (decord and pyav / pyav)",)
    # auto is PyAV, and a start from whose first step the next one began has read nothing that is left
    entries = [{"from_step": 4, "policy": {"data.decoder": name}} for name in ("decord", "auto")]
    (run / "machine.json").write_text(json.dumps(entries))
    (gap,) = analysis_of(writer).gaps
    assert gap.is_gap


def test_a_changed_batch_read_by_another_decoder_is_not_compared(writer, make_ranks):
    for clips, decoder in ((8, "pyav"), (4, "decord")):
        config = writer.config(norm="bn", clips_per_gpu=clips)
        run = writer.finish(config, make_ranks(200, 0.7, seed=2), plan_digest=f"p{clips}")
        (run / "machine.json").write_text(json.dumps([{"from_step": 0, "policy": {"data.decoder": decoder}}]))
    assert "data.decoder (decord / pyav)" in change_section(analysis_of(writer))


def test_other_training_clips_are_no_gap(pair):
    (gap,) = pair(plan_digest="p1").gaps
    assert gap.refused == ("the clips trained on (plan_digest p1 / p0)",)


def test_another_treatment_of_gamma_is_no_gap(pair):
    roles = (
        {"role": "conv", "tensors": 14, "parameters": 400000, "weight_decay": 1e-4, "initial_value": "msra"},
        {"role": "norm_gamma", "tensors": 13, "parameters": 3000, "weight_decay": 1e-4, "initial_value": 1.0},
    )
    (gap,) = pair(audit=roles).gaps
    assert gap.refused == ("audits: norm_gamma weight_decay (0.0001 / 0.0)",)


def test_other_videos_are_no_gap_though_the_config_is_the_same(pair):
    (gap,) = pair(rows="other rows").gaps
    (reason,) = gap.refused
    assert reason.startswith("settings outside config.yaml: pair_fingerprint differs and no key does")


def test_other_videos_are_named_where_the_run_wrote_its_identity(pair, writer):
    pair(rows="other rows")
    for run, rows in zip(sorted(writer.directory.glob("i3d*")), ("rows", "other rows"), strict=True):
        (run / "identity.json").write_text(json.dumps({"seed": 0, "data rows": rows, "weights sha256": None}))
    (gap,) = analysis_of(writer).gaps
    assert gap.refused == ("settings: the usable videos and labels (other rows / rows)",)


def test_other_views_are_no_gap(pair):
    (gap,) = pair(views="center").gaps
    assert gap.refused == ("the test's views (center / paper)",)


def test_everything_that_differs_is_named(pair):
    analysis = pair(change=lambda c: with_optim(c, momentum=0.5), plan_digest="p1", views="center")
    assert len(analysis.gaps[0].refused) == 3


@pytest.mark.parametrize("key", ["pair_fingerprint", "plan_digest"])
def test_a_result_without_its_proof_is_no_gap(pair, key):
    (gap,) = pair(**{key: None}).gaps
    assert f"{key} is missing" in gap.refused[0]


def test_machine_choices_do_not_matter(pair):
    def other_machine(config):
        trainer = dataclasses.replace(config.trainer, device="cuda", clips_per_forward=2, activation_memory="block")
        return dataclasses.replace(config, trainer=trainer, launch=dataclasses.replace(config.launch, nproc_per_node=2))

    assert pair(change=other_machine).gaps[0].is_gap


def test_weights_and_input_means_that_differ_are_printed_and_do_not_refuse(writer, make_ranks):
    other = {"role": "conv", "tensors": 14, "parameters": 400000, "weight_decay": 1e-4, "initial_value": "other"}
    for norm, mean in (("bn", [114.75] * 3), ("gn", [122.77, 115.95, 102.98])):
        config = dataclasses.replace(writer.config(norm=norm, gpus=2), weights=f"r50_{norm}.pkl")
        roles = [other | {"initial_value": norm}]
        writer.finish(config, make_ranks(200, 0.7, seed=len(norm)), input_mean=mean, audit=roles)
    analysis = analysis_of(writer)
    (gap,) = analysis.gaps
    assert gap.is_gap
    text = gap_section(analysis)
    assert "weights: gn starts from r50_gn.pkl, bn from r50_bn.pkl" in text
    assert "input mean: gn [122.77, 115.95, 102.98], bn [114.75, 114.75, 114.75]" in text


def test_one_arm_pre_trained_and_the_other_not_is_no_gap(pair):
    (gap,) = pair(change=lambda c: dataclasses.replace(c, weights="r50_gn.pkl")).gaps
    assert gap.refused == ("weights: gn starts from r50_gn.pkl, bn from random",)


def test_another_eps_is_no_gap(pair):
    (gap,) = pair(change=lambda c: dataclasses.replace(c, norm=dataclasses.replace(c.norm, eps=1e-3))).gaps
    assert gap.refused == ("settings: norm.eps (0.001 / 1e-05)",)


def two_batch_norms(writer, make_ranks, *, change=lambda config: config, **result):
    writer.finish(writer.config(norm="bn", gpus=2), make_ranks(200, 0.7, seed=2))
    writer.finish(change(writer.config(norm="sync_bn", gpus=2)), make_ranks(200, 0.7, seed=1), **result)
    (gap,) = analysis_of(writer).gaps
    return gap


def test_momentum_counts_where_both_arms_have_one(writer, make_ranks):
    def change(config):
        return dataclasses.replace(config, norm=dataclasses.replace(config.norm, momentum=0.5))

    assert two_batch_norms(writer, make_ranks, change=change).refused == ("settings: norm.momentum (0.5 / 0.1)",)


def test_momentum_does_not_count_for_an_arm_without_statistics(pair):
    (gap,) = pair(change=lambda c: dataclasses.replace(c, norm=dataclasses.replace(c.norm, momentum=0.5))).gaps
    assert gap.is_gap


def test_other_statistics_at_test_are_no_gap(writer, make_ranks):
    gap = two_batch_norms(writer, make_ranks, change=lambda c: dataclasses.replace(c, bn_stats="ema"))
    assert "statistics at test (ema / precise)" in gap.refused


def test_other_steps_of_statistics_are_no_gap(writer, make_ranks):
    gap = two_batch_norms(writer, make_ranks, change=lambda c: dataclasses.replace(c, bn_stats_steps=7))
    assert gap.refused == ("the steps that statistics at test are taken over (bn_stats_steps 7 / 200)",)


def test_statistics_of_the_test_batch_are_named(writer, make_ranks):
    config = dataclasses.replace(writer.config(norm="bn", gpus=2), bn_stats="batch")
    writer.finish(config, make_ranks(200, 0.7, seed=2))
    gn = dataclasses.replace(writer.config(norm="gn", gpus=2), bn_stats="batch")
    writer.finish(gn, make_ranks(200, 0.7, seed=1))
    (gap,) = analysis_of(writer).gaps
    assert gap.remarks == ("bn was tested with the statistics of each test batch, which no single video has",)


def test_videos_that_one_arm_alone_could_not_read_are_left_out_of_both(writer, make_ranks):
    ours = make_ranks(200, 0.8, seed=1)
    theirs = ours.copy()
    ours[:60] = -1
    theirs[50:70] = -1  # ten of them in both
    theirs[100:110] = 3
    writer.finish(writer.config(norm="bn", gpus=2), theirs)
    writer.finish(writer.config(norm="gn", gpus=2), ours)
    (gap,) = analysis_of(writer).gaps
    both = np.r_[50:60, 70:200]
    assert gap.points.mean == pytest.approx(100 * np.mean((ours == 0)[both].astype(int) - (theirs == 0)[both]))
    assert gap.points.mean >= 0
    assert gap.videos.num_videos == 140
    assert gap.remarks == (
        "50 videos that gn's test alone could not read are left out of both",
        "10 videos that bn's test alone could not read are left out of both",
    )


def test_what_a_run_says_of_itself_is_named(pair, writer):
    pair(num_skipped=3, versions={"torch": "2.9.0"})
    for norm, world_size in (("bn", 1), ("gn", 2)):
        starts = [
            {"from_step": 0, "world_size": world_size, "clips_per_forward": 4, "threads": 1, "policy": {"keep": 1}},
            {"from_step": 9, "world_size": world_size, "clips_per_forward": 4, "threads": 1, "policy": {"keep": 2}},
        ]
        (writer.directory / f"i3d_tiny_32f_8x2_{norm}_s0" / "machine.json").write_text(json.dumps(starts))
    analysis = analysis_of(writer)
    (gap,) = analysis.gaps
    assert gap.is_gap
    assert gap.remarks == (
        "version of torch: gn 2.9.0, bn None",
        "training steps skipped as not finite: gn 3 of 400, bn 0 of 400",
        "layout: gn 4 clips a forward on cpu, 1 threads, sums: of 2 processes, bn 4 clips a forward on cpu, 1 threads, "
        "sums: of 1 processes (sums in another order: in float32 runs of one seed then differ; measured: less than two "
        "seeds do)",
        "gn was changed on its way, after step 9: keep=2, before 1",
        "bn was changed on its way, after step 9: keep=2, before 1",
    )
    assert "To be read with it:" in gap_section(analysis)


def test_videos_in_another_order_are_paired_by_id(pair, writer, make_ranks):
    before = pair().gaps[0].videos
    csv = writer.directory / "i3d_tiny_32f_8x2_gn_s0" / "tests" / "paper-none.csv"
    header, *lines = csv.read_text().splitlines()
    csv.write_text("\n".join([header, *reversed(lines)]) + "\n")
    assert analysis_of(writer).gaps[0].videos == before


def test_without_per_video_scores_there_is_a_gap_and_no_interval(pair, writer):
    pair()
    (writer.directory / "i3d_tiny_32f_8x2_gn_s0" / "tests" / "paper-none.csv").unlink()
    analysis = analysis_of(writer)
    (gap,) = analysis.gaps
    assert gap.is_gap
    assert gap.videos is None
    assert "no interval, for the scores of each video are not there" in gap_section(analysis)


def test_unreadable_videos_are_named_where_no_scores_tell_which(pair, writer):
    pair(num_unreadable=60)
    (writer.directory / "i3d_tiny_32f_8x2_gn_s0" / "tests" / "paper-none.csv").unlink()
    (gap,) = analysis_of(writer).gaps
    assert gap.remarks == ("gn could not read 60 of the tested videos, bn 0: they count as wrong",)


def test_results_that_contradict_their_scores_are_told_and_not_compared(pair):
    analysis = pair(top1=99.0)
    assert "result.json says top-1 99.00 %" in analysis.faults[0]
    (gap,) = analysis.gaps
    (reason,) = gap.refused
    assert reason.startswith("i3d_tiny_32f_8x2_gn_s0 contradicts itself: result.json says top-1 99.00 %")


def test_seeds(writer, make_ranks):
    points = []
    for seed in range(3):
        ranks = {
            norm: make_ranks(150, share, seed=10 * seed + i)
            for i, (norm, share) in enumerate([("bn", 0.6), ("gn", 0.8)])
        }
        for norm in ranks:
            writer.finish(writer.config(norm=norm, gpus=2, seed=seed), ranks[norm], plan_digest=f"seed {seed}")
        points.append(100 * (np.mean(ranks["gn"] == 0) - np.mean(ranks["bn"] == 0)))
    analysis = analysis_of(writer)
    (gap,) = analysis.gaps
    assert gap.points.mean == pytest.approx(np.mean(points))
    assert gap.points.deviation == pytest.approx(np.std(points, ddof=1))
    assert gap.by_seed == pytest.approx(tuple(points))
    assert gap.interval.points == pytest.approx(gap.points.mean)
    assert gap.interval.low < gap.videos.low < gap.videos.high < gap.interval.high
    assert gap.p_adjusted == gap.interval.p
    text = gap_section(analysis)
    assert "covers the choice of videos and how training happened to go" in text
    assert "With one seed" not in text
    assert " ± " in accuracy_section(analysis)


def study(writer, make_ranks, *, shares, seeds=3, num_videos=1000, shift=0.0):
    """bn and others in one column; `shift`: what seeds differ by."""
    for seed in range(seeds):
        for norm, share in shares.items():
            moved = share + (shift * (seed - 1) if norm != "bn" else 0)
            ranks = make_ranks(num_videos, moved, seed=31 * seed + len(norm) + ord(norm[0]))
            writer.finish(writer.config(norm=norm, gpus=2, seed=seed), ranks, plan_digest=f"seed {seed}")
    return analysis_of(writer)


def test_the_verdict_has_four_states(tmp_path, make_ranks):
    from tests.report.conftest import Writer

    apart = study(Writer(tmp_path / "apart"), make_ranks, shares={"bn": 0.6, "gn": 0.75})
    here = study(Writer(tmp_path / "here"), make_ranks, shares={"bn": 0.6, "gn": 0.7}, shift=0.08)
    alone = study(Writer(tmp_path / "alone"), make_ranks, shares={"bn": 0.6, "gn": 0.75}, seeds=1)
    none = study(Writer(tmp_path / "none"), make_ranks, shares={"bn": 0.6, "gn": 0.6})
    refused = Writer(tmp_path / "refused")
    for norm in ("bn", "gn"):
        refused.finish(refused.config(norm=norm, gpus=2), make_ranks(100, 0.5, seed=1), plan_digest=norm)
    states = [found.gaps[0].state for found in (apart, here, alone, none)]
    assert states == ["apart", "apart here", "apart here", "not seen"]
    assert analysis_of(refused).gaps[0].state == "not comparable"
    assert "points above bn, more than the choice of videos and of seeds explains" in gap_section(apart)
    assert "that other seeds would say otherwise is not excluded (3 pairs of runs, ±" in gap_section(here)
    assert "is not excluded (one seed can't tell)" in gap_section(alone)
    assert "no difference between gn and bn is seen; one of" in gap_section(none)
    assert alone.gaps[0].interval is None
    assert "With one seed there is no interval for a gap" in gap_section(alone)


def test_several_gaps_are_adjusted_for(writer, make_ranks):
    shares = {"bn": 0.6, "gn": 0.64, "ln": 0.6, "in": 0.6}
    analysis = study(writer, make_ranks, shares=shares)
    raw = [gap.interval.p for gap in analysis.gaps]
    assert [gap.p_adjusted for gap in analysis.gaps] != raw
    assert min(gap.p_adjusted for gap in analysis.gaps) == pytest.approx(3 * min(raw))
    assert "p is adjusted for 3 gaps (Holm)" in gap_section(analysis)


@pytest.fixture
def folds(writer, make_ranks):
    """Three folds of 200 videos each, two seeds; `ids` of fold n begin with n."""

    def write(seeds=2, *, ids=lambda fold: f"fold{fold}_"):
        for fold, seed, norm in itertools.product(range(3), range(seeds), ("bn", "gn")):
            config = writer.config(norm=norm, gpus=2, seed=seed)
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold, folds=3))
            ranks = make_ranks(200, 0.6 + 0.1 * (norm == "gn"), seed=10 * fold + seed + 100 * (norm == "gn"))
            run = writer.finish(config, ranks, plan_digest=f"{fold} {seed}", rows=f"rows {fold}")
            for file in (run / "tests").glob("*.csv"):
                file.write_text(file.read_text().replace("video_", ids(fold)))
        return analysis_of(writer)

    return write


def test_folds_are_pooled_each_video_once(folds):
    analysis = folds()
    (column,), (gap,) = analysis.columns, analysis.gaps
    assert column.tag == "folds"
    assert (gap.folds, gap.seeds) == ((0, 1, 2), (0, 1))
    assert gap.videos.num_videos == 600
    cells = [c for c in analysis.study.cells if c.norm == "gn" and c.seed == 0]
    assert analysis.arms[column, "gn"].values(lambda c: c.first)[0] == pytest.approx(
        np.mean([c.result["top1"] for c in cells])
    )
    assert gap.by_seed[0] == pytest.approx(
        np.mean([c.result["top1"] * (1 if c.norm == "gn" else -1) * 2 for c in analysis.study.cells if c.seed == 0])
    )
    assert "3 folds are pooled: each of their videos is tested once a seed." in gap_section(analysis)
    accuracy = accuracy_section(analysis)
    assert "(600 videos in 3 folds, views paper" in accuracy
    assert "Not above chance" not in accuracy


def test_folds_of_a_run_are_told_from_chance_together(writer, make_ranks):
    """Of 60 videos 15 % right is not above 10 classes' chance; of 300 it is."""
    for fold, share in itertools.product(range(5), (0.15, 0.1)):
        config = writer.config(norm="gn" if share > 0.1 else "bn", seed=0)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, fold=fold, folds=5))
        right = round(60 * share)
        writer.finish(config, [0] * right + [5] * (60 - right), classes=10, plan_digest=f"{fold}", rows=f"rows {fold}")
    accuracy = accuracy_section(analyse(read_study(writer.directory)))
    assert "(300 videos in 5 folds, views paper" in accuracy
    assert "Not above chance by a 95 % interval: i3d_tiny_32f_8x8_bn_folds_s0." in accuracy


def test_one_seed_of_several_folds_has_an_interval_over_folds(folds):
    (gap,) = folds(seeds=1).gaps
    assert gap.interval.freedom == 2
    assert gap.interval.points == pytest.approx(gap.points.mean)


def test_splits_that_share_test_videos_have_no_interval(folds):
    analysis = folds(ids=lambda fold: "same_")
    (gap,) = analysis.gaps
    assert gap.interval is None
    assert gap.videos is None
    text = gap_section(analysis)
    assert "no interval, for a video is in the tests of several folds" in text
    assert "More than the norm differs" not in text
    assert "folds are pooled" not in text
    assert len(gap.by_seed) == 2  # a mean a seed, not a difference a fold


def test_a_run_without_folds_is_none_of_them(folds, writer, make_ranks):
    """Fold 0 and no fold are two things."""
    for norm in ("bn", "gn"):
        writer.finish(writer.config(norm=norm, gpus=2), make_ranks(200, 0.5, seed=len(norm)))
    analysis = folds(seeds=1)
    assert [column.tag for column in analysis.columns] == [None, "folds"]
    assert [(len(gap.runs), gap.videos.num_videos) for gap in analysis.gaps] == [(1, 200), (3, 600)]


def test_a_fold_that_is_missing_is_counted(folds, writer):
    folds(seeds=1)
    (writer.directory / "i3d_tiny_32f_8x2_gn_fold2_s0" / "result.json").unlink()
    analysis = analysis_of(writer)
    row = next(line for line in accuracy_section(analysis).splitlines() if line.startswith("| gn"))
    assert "1 stopped" in row


def test_a_seed_that_differs_is_left_out_and_named(writer, make_ranks):
    for seed in range(3):
        for norm in ("bn", "gn"):
            digest = "other" if (seed, norm) == (1, "gn") else f"seed {seed}"
            writer.finish(
                writer.config(norm=norm, gpus=2, seed=seed), make_ranks(50, 0.6, seed=seed), plan_digest=digest
            )
    analysis = analysis_of(writer)
    (gap,) = analysis.gaps
    assert gap.seeds == (0, 2)
    assert gap.refused == ("seed 1: the clips trained on (plan_digest other / seed 1)",)
    assert "seeds left out of the gap" in gap_section(analysis)


@pytest.fixture
def fixed_step(writer, make_ranks):
    """A step of 16 clips in groups of 8, 4 and 2; gn ran once, at 8x2."""
    for clips, gpus, share in ((8, 2, 0.8), (4, 4, 0.7), (2, 8, 0.5)):
        writer.finish(writer.config(norm="bn", clips_per_gpu=clips, gpus=gpus), make_ranks(300, share, seed=clips))
    writer.finish(writer.config(norm="gn", clips_per_gpu=8, gpus=2), make_ranks(300, 0.78, seed=1))
    writer.finish(writer.config(norm="sync_bn", clips_per_gpu=2, gpus=8), make_ranks(300, 0.81, seed=3))
    return writer


def test_an_arm_without_groups_serves_every_division_of_a_step(fixed_step):
    analysis = analysis_of(fixed_step)
    gaps = {(g.arm.norm, g.arm.column.clips_per_gpu): g for g in analysis.gaps}
    assert {k for k in gaps if k[0] == "gn"} == {("gn", 8), ("gn", 4), ("gn", 2)}
    assert all(g.is_gap for g in gaps.values())
    assert "its run at 8×2 serves this column" in gaps["gn", 2].remarks[0]
    assert not gaps["gn", 8].remarks
    bn = next(c.result["top1"] for c in analysis.study.cells if c.run_name == "i3d_tiny_32f_2x8_bn_s0")
    gn = next(c.result["top1"] for c in analysis.study.cells if c.norm == "gn")
    assert gaps["gn", 2].points.mean == pytest.approx(gn - bn)
    text = group_section(analysis)
    assert "Step of 16 clips" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:] == [
        "bn",
        "sync_bn",
        "gn",
    ]
    row = next(line for line in text.splitlines() if line.startswith("| gn"))
    assert row.count("†") == 2


def test_a_cell_that_is_served_is_not_missing(fixed_step):
    from vidgn.report.show.status import open_section

    fixed_step.ask(fixed_step.config(norm="gn", clips_per_gpu=4, gpus=4))
    analysis = analysis_of(fixed_step)
    assert "gn_s0: missing; not needed, another division of the same step serves it" in open_section(analysis)


def test_bn_does_not_serve_another_division(fixed_step):
    fixed_step.ask(fixed_step.config(norm="bn", clips_per_gpu=1, gpus=16))
    row = next(line for line in accuracy_section(analysis_of(fixed_step)).splitlines() if line.startswith("| bn"))
    assert "missing" in row


def test_another_division_serves_only_with_the_same_training_clips(writer, make_ranks):
    writer.finish(writer.config(norm="bn", clips_per_gpu=2, gpus=8), make_ranks(100, 0.5, seed=1))
    writer.finish(writer.config(norm="gn", clips_per_gpu=8, gpus=2), make_ranks(100, 0.5, seed=2), plan_digest="p1")
    (gap,) = analysis_of(writer).gaps
    assert gap.refused == ("the clips trained on (plan_digest p1 / p0)",)


def test_another_division_with_another_setting_is_no_gap(writer, make_ranks):
    writer.finish(writer.config(norm="bn", clips_per_gpu=2, gpus=8), make_ranks(100, 0.5, seed=1))
    changed = with_optim(writer.config(norm="gn", clips_per_gpu=8, gpus=2), nesterov=False)
    writer.finish(changed, make_ranks(100, 0.5, seed=2))
    (gap,) = analysis_of(writer).gaps
    assert gap.refused == ("settings: optim.nesterov (False / True)",)


def test_a_step_of_another_size_serves_nothing(writer, make_ranks):
    writer.finish(writer.config(norm="bn", clips_per_gpu=2, gpus=8), make_ranks(100, 0.5, seed=1))
    writer.finish(writer.config(norm="gn", clips_per_gpu=8, gpus=8), make_ranks(100, 0.5, seed=2))
    assert not analysis_of(writer).gaps


def test_a_tagged_arm_is_compared_with_the_untagged_baseline(writer, make_ranks):
    writer.finish(writer.config(norm="bn", gpus=2), make_ranks(100, 0.5, seed=1))
    arm = writer.config(norm="gn", gpus=2, tag="g4")
    arm = dataclasses.replace(arm, norm=dataclasses.replace(arm.norm, groups=4))
    writer.finish(arm, make_ranks(100, 0.6, seed=2))
    (gap,) = analysis_of(writer).gaps
    assert gap.is_gap
    assert gap.arm.column.tag == "g4"


def test_a_changed_batch_within_an_arm(writer, make_ranks):
    large, small = make_ranks(120, 0.8, seed=1), make_ranks(120, 0.6, seed=2)
    writer.finish(writer.config(norm="bn", clips_per_gpu=8, gpus=2), large)
    writer.finish(writer.config(norm="bn", clips_per_gpu=2, gpus=2), small, plan_digest="p1")
    (change,) = analysis_of(writer).changes
    assert change.points.mean == pytest.approx(100 * (np.mean(small == 0) - np.mean(large == 0)))
    assert change.baseline.column.clips_per_gpu == 8


def test_a_changed_batch_with_another_learning_rate_is_not_compared(writer, make_ranks):
    writer.finish(writer.config(norm="gn", clips_per_gpu=8, gpus=2), make_ranks(120, 0.8, seed=1))
    small = with_optim(writer.config(norm="gn", clips_per_gpu=2, gpus=2), lr_per_clip=0.5)
    small = dataclasses.replace(small, norm=dataclasses.replace(small.norm, groups=4))
    writer.finish(small, make_ranks(120, 0.6, seed=2), plan_digest="p1")
    analysis = analysis_of(writer)
    (change,) = analysis.changes
    assert not change.is_gap
    assert change.refused == ("settings: norm.groups (4 / None), optim.lr_per_clip (0.5 / 0.00015625)",)
    text = change_section(analysis)
    assert "gn, i3d_tiny 32 frames, 2 clips/GPU × 2 against 8/GPU: **not compared**. More than the batch" in text
    assert "| gn" not in text


def test_a_changed_batch_where_another_division_serves(writer, make_ranks):
    """gn at 8 x 1 stands in for the column 4 x 2, and for what its smaller batch changes."""
    for norm, clips, gpus in (("bn", 8, 2), ("gn", 8, 2), ("bn", 4, 2), ("gn", 8, 1)):
        writer.finish(writer.config(norm=norm, clips_per_gpu=clips, gpus=gpus), make_ranks(120, 0.7, seed=clips + gpus))
    changes = {c.arm.norm: c for c in analysis_of(writer).changes}
    assert changes["bn"].is_gap
    assert changes["gn"].is_gap
    assert [c.run_name for c in changes["gn"].arm.borrowed] == ["i3d_tiny_32f_8x1_gn_s0"]


def test_arms_tested_on_other_copies_are_compared_on_the_videos_they_share(writer, make_ranks, tmp_path):
    """gn's copy of the test lacks the first 50 videos; what was trained on is the same."""
    ranks = {"bn": make_ranks(200, 0.6, seed=1), "gn": make_ranks(200, 0.7, seed=2)}
    writer.finish(writer.config(norm="bn", gpus=2), ranks["bn"], rows="all")
    run = writer.finish(writer.config(norm="gn", gpus=2), ranks["gn"][50:], rows="some")
    for file in (run / "tests").glob("*.csv"):
        header, *lines = file.read_text().splitlines()
        moved = []
        for number, line in enumerate(lines, start=50):
            cells = line.split(",")
            moved.append(",".join([f"video_{number:05d}", str(number % 8), *cells[2:]]))
        file.write_text("\n".join([header, *moved]) + "\n")
    assert not analysis_of(writer).gaps[0].is_gap
    names = tmp_path / "common.txt"
    names.write_text("".join(f"video_{number:05d}\n" for number in range(50, 300)))
    assert run_report([str(writer.directory), "--only", str(names)]) == 0
    told = json.loads((writer.directory / "only_common" / "report.json").read_text())
    (gap,) = told["gaps"]
    right = {norm: (of_norm == 0)[50:] for norm, of_norm in ranks.items()}
    assert gap["points"]["mean"] == pytest.approx(100 * (right["gn"].mean() - right["bn"].mean()))
    assert gap["videos"]["num_videos"] == 150
    assert {c["num_videos"] for c in told["cells"]} == {150}
    assert not (writer.directory / "report.json").exists()
    page = (writer.directory / "only_common" / "report.html").read_text()
    assert 'href="../i3d_tiny_32f_8x2_gn_s0/"' in page
    assert f"--only {shlex.quote(str(names))}</pre>" in html.unescape(page)
    names.write_text("nothing\n")
    with pytest.raises(ManifestError, match="none of its tested videos is in the list"):
        run_report([str(writer.directory), "--only", str(names)])
    report = (writer.directory / "only_common" / "report.md").read_text()
    assert "Judged by the videos named in a list alone: of its 250 names, 150 were tested." in report


def test_a_name_of_several_tested_videos_is_refused(pair, writer, tmp_path):
    pair()
    for file in writer.directory.glob("*/tests/*.csv"):
        file.write_text(file.read_text().replace("video_00001,", "a/x.mp4,").replace("video_00002,", "b/x.mp4,"))
    names = tmp_path / "names.txt"
    names.write_text("x\n")
    with pytest.raises(ManifestError, match="several tested videos are called x; name them by their ids"):
        run_report([str(writer.directory), "--only", str(names)])
    names.write_text("a/x.mp4\nvideo_00003\n")
    assert run_report([str(writer.directory), "--only", str(names)]) == 0
