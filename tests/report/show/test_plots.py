"""What is drawn, asked of the figures themselves."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from vidgn.report.analyse.analysis import analyse
from vidgn.report.read.study import read_study
from vidgn.report.show import plots


def analysis_of(writer):
    return analyse(read_study(writer.directory))


def labels_of(figure) -> list[str]:
    return [t.get_text() for t in figure.legends[0].get_texts()]


def test_curves_have_a_panel_a_norm_and_a_line_a_cell(demo):
    figure = plots.curves(analysis_of(demo.writer))
    assert [ax.get_title() for ax in figure.axes] == ["bn", "gn"]
    assert [len(ax.lines) for ax in figure.axes] == [4, 4]
    assert len({ax.get_ylim() for ax in figure.axes}) == len({ax.get_xlim() for ax in figure.axes}) == 1
    assert labels_of(figure) == ["8 clips/GPU", "2 clips/GPU", "8 frames", "16 frames", "rate lowered"]
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 4


def test_a_curve_holds_what_the_run_wrote(demo):
    analysis = analysis_of(demo.writer)
    cell = next(c for c in analysis.study.cells if c.run_name == "i3d_tiny_8f_8x2_bn_s0")
    lines = [line.get_ydata() for line in plots.curves(analysis).axes[0].lines]
    expected = [p.top1_error_percent for p in cell.curve()]
    assert any(np.allclose(line, expected) for line in lines)


def test_seeds_are_a_mean_and_a_band(writer, make_ranks):
    for seed, error in ((0, 40.0), (1, 50.0), (2, 30.0)):
        curve = [(10, 1.0, error), (20, 2.0, error / 2), (30, 3.0, 5.0)][: 3 - (seed == 2)]
        writer.finish(writer.config(seed=seed), make_ranks(50, 0.5, seed=seed), curve=curve)
    (ax,) = plots.curves(analysis_of(writer)).axes
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 2]  # what every seed has reached
    assert list(line.get_ydata()) == [40, 20]
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices
    assert {tuple(v) for v in edges} >= {(1, 30), (1, 50), (2, 15), (2, 25)}


def test_steps_of_the_learning_rate_are_marked(writer, make_ranks):
    """At 0.375 and 0.75 of 400 steps, which are 40 epochs."""
    config, curve = writer.config(), [(10, 1.0, 40.0), (200, 20.0, 30.0), (290, 29.0, 20.0)]
    writer.finish(config, make_ranks(50, 0.5, seed=1), curve=curve)
    (cell,) = read_study(writer.directory).cells
    assert cell.rate_drops() == tuple(40 * mark for mark in config.optim.milestones) == (15, 30)
    figure = plots.curves(analysis_of(writer))
    (marks,) = figure.axes[0].collections
    assert [segment[0][0] for segment in marks.get_segments()] == [15]  # the other is still to come
    assert labels_of(figure)[-1] == "rate lowered"


def test_a_step_written_twice_counts_once(writer, make_ranks):
    curve = [(10, 1.0, 90.0), (20, 2.0, 80.0), (10, 1.0, 70.0)]
    writer.finish(writer.config(), make_ranks(50, 0.5, seed=1), curve=curve)
    (cell,) = read_study(writer.directory).cells
    assert [p.top1_error_percent for p in cell.curve()] == [70.0, 80.0]


def test_gaps_are_drawn_with_their_ends(demo):
    analysis = analysis_of(demo.writer)
    (ax,) = plots.gaps(analysis).axes
    drawn = [sorted(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 2]
    for gap in analysis.gaps:
        assert [gap.videos.low, gap.videos.high] in drawn
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8f 8×2", "8f 2×2", "16f 8×2", "16f 2×2"]


def test_what_a_study_of_that_size_would_not_see_is_a_band(writer, make_ranks):
    for norm, right in (("bn", 0.5), ("gn", 0.6)):
        for seed in range(3):
            writer.finish(writer.config(norm=norm, seed=seed), make_ranks(200, right, seed=10 * seed + len(norm)))
    analysis = analysis_of(writer)
    (gap,) = (g for g in analysis.gaps if g.interval is not None)
    (ax,) = plots.gaps(analysis).axes
    (band,) = (c.get_paths()[0].vertices[:, 1] for c in ax.collections if c.get_paths())
    assert [band.min(), band.max()] == pytest.approx([-gap.interval.detectable, gap.interval.detectable])


def test_nothing_to_draw(writer, make_ranks):
    writer.finish(writer.config(), make_ranks(50, 0.5, seed=1))
    analysis = analysis_of(writer)
    assert (plots.curves(analysis), plots.gaps(analysis), plots.batches(analysis)) == (None, None, None)


def test_gaps_of_images_are_drawn_in_error(writer, make_ranks):
    for norm, accuracy in (("bn", 0.6), ("gn", 0.8)):
        config = writer.config(model="resnet50", data="imagenet", norm=norm, frames=1, span=1, clips_per_gpu=2)
        writer.finish(config, make_ranks(400, accuracy, seed=3), classes=1000)
    analysis = analysis_of(writer)
    (gap,), (ax,) = analysis.gaps, plots.gaps(analysis).axes
    drawn = [list(line.get_ydata()) for line in ax.lines]
    assert gap.points.mean > 0  # in accuracy
    assert [-gap.videos.low, -gap.videos.high] in drawn
    assert [-gap.points.mean] in drawn
    assert any(y == pytest.approx([24.1 - 34.7]) for y in drawn)  # the paper's, at 2 images/GPU
    assert ax.get_ylabel() == "gap to bn, top-1 error (points)"


@pytest.mark.parametrize("published", [True, False])
def test_error_by_batch(writer, make_ranks, published):
    classes = 1000 if published else 10
    for images, error in ((32, 0.2), (8, 0.3), (2, 0.4)):
        config = writer.config(model="resnet50", data="imagenet", clips_per_gpu=images)
        writer.finish(config, make_ranks(500, 1 - error, seed=images), classes=classes)
    analysis = analysis_of(writer)
    (ax,) = plots.batches(analysis).axes
    measured = {c.clips_per_gpu: 100 - c.result["top1"] for c in analysis.study.cells}
    assert any(dict(zip(*line.get_data(), strict=True)) == measured for line in ax.lines if len(line.get_xdata()) == 3)
    told = [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() == ":"]
    assert told == ([pytest.approx([23.6, 24.8, 34.7])] if published else [])
    low, high = ax.get_xlim()
    assert low > high  # from large batches to small


def test_error_by_group_where_the_step_is_fixed(writer, make_ranks):
    for clips, gpus in ((8, 2), (4, 4), (2, 8)):
        writer.finish(writer.config(norm="bn", clips_per_gpu=clips, gpus=gpus), make_ranks(100, 0.5, seed=clips))
    writer.finish(writer.config(norm="gn", clips_per_gpu=8, gpus=2), make_ranks(100, 0.7, seed=1))
    (ax,) = plots.batches(analysis_of(writer)).axes
    assert ax.get_title() == "i3d_tiny, 32 frames\nstep of 16 clips"
    flat = [line.get_ydata() for line in ax.lines if line.get_linestyle() == "-"]
    assert sum(len(set(line)) == 1 for line in flat) == 1  # gn, one run in every place


def test_panels_of_unlike_batches_share_ticks_and_legend(writer, make_ranks):
    for clips, gpus, norm in ((8, 1, "bn"), (4, 1, "bn"), (2, 1, "bn"), (16, 2, "gn"), (4, 2, "gn"), (1, 2, "gn")):
        writer.finish(writer.config(norm=norm, clips_per_gpu=clips, gpus=gpus), make_ranks(100, 0.5, seed=clips))
    figure = plots.batches(analysis_of(writer))
    assert len(figure.axes) == 2
    for ax in figure.axes:
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4", "8", "16"]
        assert not ax.containers[0].has_yerr, "one seed has no spread"
    assert labels_of(figure) == ["bn", "gn"]
