"""Exact evaluation: every video once, on one rank, with all its views; integer counts, summed.

`Tester` chooses the statistics that BN tests with; `evaluate` scores a split with what the model then has. Videos are
taken in blocks whose make-up depends on the experiment alone, so a video's scores do too.
"""

import csv
import io
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields

import torch
from torch import nn

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.loading.batches import Batch, Substitution, VideoViews, view_videos
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import group_clips
from vidgn.models.norms.layers import set_statistics_groups
from vidgn.rng_streams import Tag, stream
from vidgn.runs.directory import RunDirectory
from vidgn.training import bn_stats
from vidgn.training.setup import ToModel, at_least_float32, autocast
from vidgn.training.state import RunState
from vidgn.training.step import Layout, set_training_groups

CURVE = ViewsConfig(name="curve", clips=1, crops=1, crop="training", plan="training")  # GN paper, figure 7
TOP_K = 5
BLOCK = 8  # videos of one clip that go through the model at once


@dataclass(frozen=True)
class VideoScore:
    """The outcome of one video. `rank`: 0-based rank of the label's score, -1 if it could not be read."""

    id: str
    label: int
    status: str  # ok, unreadable or missing
    rank: int
    label_score: float
    prediction: int
    prediction_score: float


@dataclass(frozen=True)
class SplitScores:
    """All videos of the split in the order of the manifest."""

    videos: tuple[VideoScore, ...]
    unreadable: tuple[str, ...]  # `id: reason`

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    def top_percent(self, k: int) -> float:
        """Percent of all videos, unreadable ones counted as wrong, whose label is among the first `k`."""
        return 100 * sum(0 <= v.rank < k for v in self.videos) / len(self.videos)

    @property
    def loss(self) -> float:
        """Mean negative log score of the label over the videos that could be read."""
        scores = [max(v.label_score, 1e-30) for v in self.videos if v.status == "ok"]
        return -sum(map(math.log, scores)) / max(1, len(scores))

    @property
    def numbers(self) -> dict[str, float]:
        """Of result.json: percent."""
        return {"top1": self.top_percent(1), "top5": self.top_percent(TOP_K)}

    def line(self) -> str:
        """The same in words."""
        return f"top-1 {self.top_percent(1):.2f} %, top-5 {self.top_percent(TOP_K):.2f} %"

    def files(self) -> dict[str, str]:
        """Ending and content of what is written of each video."""
        return {".csv": self.csv()}

    def csv(self) -> str:
        """One line a video under a header with the fields of VideoScore."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(f.name for f in fields(VideoScore))
        writer.writerows(asdict(video).values() for video in self.videos)
        return text.getvalue()


class Tester:
    """Tests of one run: BN's statistics, then the scores of the validation split."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        val: Manifest,
        *,
        to_model: ToModel,
        statistics_batches: Callable[[], AbstractContextManager[Sequence[Batch] | Iterator[Batch]]],
        num_statistics_forwards: int,
        layout: Layout,
        run: RunDirectory,
        state: RunState,
    ) -> None:
        """Nothing is read before a test.

        Args:
            statistics_batches: opens this rank's share of the clips that precise statistics are taken of, which are
                `num_statistics_forwards` forwards in the training geometry.
        """
        self._config, self._model, self._val, self._to_model = config, model, val, to_model
        self._statistics_batches, self._num_statistics_forwards = statistics_batches, num_statistics_forwards
        self._layout, self._ranks, self._run, self._state = layout, layout.ranks, run, state

    @contextmanager
    def tested(self, views: ViewsConfig, *, unit: str | None = None) -> Generator[SplitScores]:
        """Scores of the validation split; inside, the model still has the statistics it was tested with.

        Args:
            unit: what the progress bar counts; None: the name of the views.
        """
        use = bn_stats.statistics_used(self._config)
        statistics = self.precise_statistics() if use == "precise" else None
        with (
            bn_stats.statistics_at_test(self._model, statistics),
            autocast(self._config, self._ranks.device),
            self._run.progress(0, len(self._val), unit or views.name) as progress,
        ):

            def each_block(done: int) -> None:
                progress.set(done * self._ranks.world_size)
                self._state.stop_if_asked(self._ranks, self._run)

            yield evaluate(
                self._model,
                self._val,
                self._config,
                views,
                ranks=self._ranks,
                to_model=self._to_model,
                use_batch_statistics=use == "batch",
                each_block=each_block,
            )

    def precise_statistics(self) -> bn_stats.Statistics:
        """BN statistics over the plans that are drawn for them, in the training geometry; the same on every rank."""
        set_training_groups(self._model, self._layout)
        replaced: list[Substitution] = []
        with (
            self._statistics_batches() as batches,
            self._run.progress(0, self._num_statistics_forwards, "BN statistics") as progress,
        ):

            def forwards() -> Iterator[torch.Tensor]:
                for batch in batches:
                    self._state.stop_if_asked(self._ranks, self._run)
                    replaced.extend(batch.substitutions)
                    yield self._to_model(batch.clip_NTHWC)
                    progress.advance()

            with autocast(self._config, self._ranks.device):
                statistics = bn_stats.precise_statistics(
                    self._model, forwards(), self._ranks, forwards_per_step=self._layout.geometry.forwards_per_step
                )
        ids = [s.id for part in self._ranks.gather(replaced) for s in part]
        if ids:
            self._run.log(
                f"BN statistics: {len(ids)} clips that could not be read were replaced, "
                f"of {', '.join(sorted(set(ids))[:3])} (vidgn data check lists all such videos)"
            )
        return statistics


def clips_at_once(config: Config, views: ViewsConfig, *, use_batch_statistics: bool) -> int:
    """Clips that go through the model at once: a statistics group, videos of one clip, or a part of a video's."""
    if use_batch_statistics:
        return group_clips(config)
    return BLOCK if views.clips * views.crops == 1 else config.clips_per_gpu


def evaluate(
    model: nn.Module,
    manifest: Manifest,
    config: Config,
    views: ViewsConfig,
    *,
    ranks: Ranks,
    to_model: Callable[[torch.Tensor], torch.Tensor],
    use_batch_statistics: bool = False,
    each_block: Callable[[int], None] = lambda done: None,
) -> SplitScores:
    """Scores of every video of `manifest`, the same on every rank and for every world size.

    `to_model` turns uint8 (N, T, H, W, C) into what the model takes. The caller chooses the statistics the model tests
    with; with `use_batch_statistics`, BN normalises each view of as many videos together as a statistics group has
    clips; they are drawn, since a manifest may be sorted by class.
    `each_block` is called with the number of videos this rank has done, equally often on every rank, so it may hold a
    collective.
    """
    single = views.clips * views.crops == 1
    clips = clips_at_once(config, views, use_batch_statistics=use_batch_statistics)
    block = clips if single or use_batch_statistics else 1
    order = list(range(len(manifest)))
    if use_batch_statistics:
        order = stream(Tag.TEST_GROUPS, config.seed).permutation(len(manifest)).tolist()
    rows = [i for place, i in enumerate(order) if place // block % ranks.world_size == ranks.rank]
    reading = view_videos(
        manifest,
        config.data,
        views,
        seed=config.seed,
        frames=config.frames,
        stride=config.stride,
        rows=rows,
        pin_memory=ranks.device.type == "cuda",
    )
    scored: list[tuple[int, VideoScore, str | None]] = []
    calls = math.ceil(len(manifest) / (block * ranks.world_size))
    with reading as videos, torch.no_grad():
        for group in blocks_of(videos, block):
            readable = [v for v in group if v.clips_VTHWC is not None]
            if use_batch_statistics:
                scores = _together(model, readable, to_model)
            elif single:
                scores = _each_first(model, readable, to_model)
            else:
                scores = [_one_video(model, v, to_model, clips) for v in readable]
            by_index = {v.index: s for v, s in zip(readable, scores, strict=True)}
            scored += [(v.index, _score(v, by_index.get(v.index)), v.error) for v in group]
            each_block(len(scored))
            calls -= 1
        for _ in range(calls):
            each_block(len(scored))
    everything = sorted((s for part in ranks.gather(scored) for s in part), key=lambda s: s[0])
    assert [s[0] for s in everything] == list(range(len(manifest))), "every video exactly once"
    return SplitScores(
        tuple(s for _, s, _ in everything),
        tuple(f"{s.id}: {error}" for _, s, error in everything if error is not None),
    )


def blocks_of(videos: Iterator[VideoViews], size: int) -> Iterator[list[VideoViews]]:
    """A rank's blocks, one after another: all are full but the last of all ranks'."""
    while group := list(itertools.islice(videos, size)):
        yield group


def scores_of_clips(
    model: Callable[[torch.Tensor], torch.Tensor],
    clips_VTHWC: torch.Tensor,
    to_model: Callable[[torch.Tensor], torch.Tensor],
    *,
    at_once: int,
) -> torch.Tensor:
    """Class scores (V, K) of uint8 clips (V, T, H, W, C), so many of them through the model at once."""
    return torch.cat([class_scores(model(to_model(part))) for part in clips_VTHWC.split(at_once)])


def _one_video(
    model: Callable[[torch.Tensor], torch.Tensor],
    video: VideoViews,
    to_model: Callable[[torch.Tensor], torch.Tensor],
    clips: int,
) -> torch.Tensor:
    assert video.clips_VTHWC is not None
    return scores_of_clips(model, video.clips_VTHWC, to_model, at_once=clips).mean(0)


def _each_first(
    model: nn.Module, videos: Sequence[VideoViews], to_model: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    if not videos:
        return []
    clips = torch.cat([v.clips_VTHWC for v in videos if v.clips_VTHWC is not None])
    return list(scores_of_clips(model, clips, to_model, at_once=len(clips)))


def _together(
    model: nn.Module, videos: Sequence[VideoViews], to_model: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Each view of all `videos` as one statistics group."""
    if not videos:
        return []
    set_statistics_groups(model, group_clips=len(videos))
    by_view = zip(*(v.clips_VTHWC for v in videos if v.clips_VTHWC is not None), strict=True)
    with bn_stats.batch_statistics(model):
        views = [class_scores(model(to_model(torch.stack(clips)))) for clips in by_view]
    return list(torch.stack(views).mean(0))


def _score(video: VideoViews, scores_K: torch.Tensor | None) -> VideoScore:
    if scores_K is None:
        return VideoScore(video.id, video.label, "unreadable", -1, 0.0, -1, 0.0)
    scores_K = scores_K.cpu()
    rank = int(label_ranks(scores_K[None], torch.tensor([video.label]))[0])
    best = int(scores_K.nan_to_num(nan=-1).argmax())
    values = [float(scores_K[i].nan_to_num(nan=0)) for i in (video.label, best)]
    return VideoScore(video.id, video.label, "ok", rank, values[0], best, values[1])


def label_ranks(scores_NK: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
    """0-based rank of each label's score: 0 is top-1. Ties go to the lower class index; a NaN never ranks.

    Shape: (N, K), (N,) -> (N,) int64. A row with a NaN gets rank K or 5, whichever is more.
    """
    own_N1 = scores_NK.gather(1, label_N[:, None])
    classes_K = torch.arange(scores_NK.shape[1], device=scores_NK.device)
    ahead = (scores_NK > own_N1) | ((scores_NK == own_N1) & (classes_K < label_N[:, None]))
    ranks = ahead.sum(1)
    return torch.where(scores_NK.isnan().any(1), max(scores_NK.shape[1], TOP_K), ranks)


def class_scores(logits_NKTHW: torch.Tensor) -> torch.Tensor:
    """Softmax over classes, averaged over the final map: (N, K), in float32 at least."""
    return at_least_float32(logits_NKTHW).softmax(1).mean((2, 3, 4))
