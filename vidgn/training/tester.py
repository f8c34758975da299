"""Exact evaluation: every video once, on one rank, with all its views; integer counts, summed.

Videos are taken in blocks whose make-up depends on the experiment alone, so a video's scores do too.
"""

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import nn

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.loading.batches import VideoViews, view_videos
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import group_clips
from vidgn.models.norms.layers import set_statistics_groups
from vidgn.rng_streams import Tag, stream
from vidgn.runs.metrics import TOP_K, label_ranks
from vidgn.training.bn_stats import batch_statistics
from vidgn.training.step import class_scores

CURVE = ViewsConfig(name="curve", clips=1, crops=1, crop="training", plan="training")  # GN paper, figure 7
BLOCK = 8  # videos of one clip that go through the model at once


@dataclass(frozen=True)
class VideoScore:
    """What the test made of one video. `rank`: 0-based rank of the label's score, -1 if it could not be read."""

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

    def csv(self) -> str:
        """One line a video under a header with the fields of VideoScore."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(f.name for f in fields(VideoScore))
        writer.writerows(asdict(video).values() for video in self.videos)
        return text.getvalue()


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
        for group in _blocks(videos, block):
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


def top_percents(scores: SplitScores) -> dict[str, float]:
    return {"top1": scores.top_percent(1), "top5": scores.top_percent(TOP_K)}


def _blocks(videos: Iterator[VideoViews], size: int) -> Iterator[list[VideoViews]]:
    """A rank's blocks, one after another: all are full but the last of all ranks'."""
    while group := list(itertools.islice(videos, size)):
        yield group


def _one_video(
    model: nn.Module, video: VideoViews, to_model: Callable[[torch.Tensor], torch.Tensor], clips: int
) -> torch.Tensor:
    assert video.clips_VTHWC is not None
    parts = [class_scores(model(to_model(part))) for part in video.clips_VTHWC.split(clips)]
    return torch.cat(parts).mean(0)


def _each_first(
    model: nn.Module, videos: Sequence[VideoViews], to_model: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    if not videos:
        return []
    clips = torch.cat([v.clips_VTHWC for v in videos if v.clips_VTHWC is not None])
    return list(class_scores(model(to_model(clips))))


def _together(
    model: nn.Module, videos: Sequence[VideoViews], to_model: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Each view of all `videos` as one statistics group."""
    if not videos:
        return []
    set_statistics_groups(model, group_clips=len(videos))
    by_view = zip(*(v.clips_VTHWC for v in videos if v.clips_VTHWC is not None), strict=True)
    with batch_statistics(model):
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
